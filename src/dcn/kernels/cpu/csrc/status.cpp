#include "status.h"

#include <cstdio>

namespace {
thread_local char message_of_thread[512] = "";
}

void dcn_set_error(const char* message) noexcept {
    std::snprintf(message_of_thread, sizeof message_of_thread, "%s", message);
}

DCN_EXPORT const char* dcn_error_message() { return message_of_thread; }

// Raised whenever an exported struct or function changes its meaning; _library.py refuses another number.
DCN_EXPORT int dcn_abi_version() { return 2; }
