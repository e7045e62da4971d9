#include "workspace.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dcn {
namespace {

constexpr int64_t keep_bytes = 32 << 20;
constexpr int64_t huge_page = 2 << 20;

struct Kept {
    std::mutex mutex;
    char* memory = nullptr;
    int64_t capacity = 0;
};

Kept& kept() {
    static Kept* const one = new Kept;  // never destroyed: a call may still run while the process exits
    return *one;
}

char* allocate(int64_t bytes) {
#if defined(_WIN32)
    void* memory = _aligned_malloc(static_cast<size_t>(bytes), 64);
#else
    void* memory = nullptr;
    const int64_t alignment = bytes >= huge_page ? huge_page : 64;
    if (posix_memalign(&memory, static_cast<size_t>(alignment), static_cast<size_t>(bytes)) != 0) memory = nullptr;
#endif
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    if (bytes >= huge_page) madvise(memory, static_cast<size_t>(bytes / huge_page * huge_page), MADV_HUGEPAGE);
#endif
    return static_cast<char*>(memory);
}

void release(char* memory) {
#if defined(_WIN32)
    _aligned_free(memory);
#else
    std::free(memory);
#endif
}

}  // namespace

void Workspace::take() {
    Kept& store = kept();
    std::lock_guard<std::mutex> lock(store.mutex);
    if (store.memory && store.capacity >= bytes_) {
        memory_ = std::exchange(store.memory, nullptr);
        capacity_ = std::exchange(store.capacity, 0);
        return;
    }
    release(std::exchange(store.memory, nullptr));
    store.capacity = 0;
    memory_ = allocate(bytes_ ? bytes_ : 64);
    capacity_ = bytes_;
}

Workspace::~Workspace() {
    if (!memory_) return;
    Kept& store = kept();
    std::lock_guard<std::mutex> lock(store.mutex);
    if (capacity_ <= keep_bytes && capacity_ > store.capacity) {
        std::swap(memory_, store.memory);
        std::swap(capacity_, store.capacity);
    }
    release(memory_);
}

}  // namespace dcn
