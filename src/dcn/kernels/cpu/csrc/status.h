// Nothing may be thrown across the C ABI: every exported function that can fail runs inside dcn_guard and answers 0,
// or 1 with the reason kept for dcn_error_message(). RoI poolings answer 2 for an image that does not exist.
#pragma once

#include <exception>
#include <new>

#if defined(_WIN32)
#define DCN_EXPORT extern "C" __declspec(dllexport)
#else
#define DCN_EXPORT extern "C" __attribute__((visibility("default")))
#endif

void dcn_set_error(const char* message) noexcept;

template <class F>
int dcn_guard(F&& body) noexcept {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        dcn_set_error("out of memory for the workspace");
    } catch (const std::exception& error) {
        dcn_set_error(error.what());
    } catch (...) {
        dcn_set_error("unknown C++ exception");
    }
    return 1;
}

// `body` answers false when a RoI names an image that does not exist.
template <class F>
int dcn_guard_images(F&& body) noexcept {
    bool exists = true;
    const int status = dcn_guard([&] { exists = body(); });
    return exists ? status : 2;
}
