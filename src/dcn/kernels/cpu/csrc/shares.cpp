// C ABI of the shares of a call: between begin and end, the calls of this thread are told apart instead of done.
#include "shares.h"

#include <optional>

#include "status.h"

namespace {
thread_local std::optional<DcnShares> shares_of_thread;
}

// `timed`: every task is done after all, by this thread, and counts as long as it took. Else calls compute nothing.
DCN_EXPORT int dcn_shares_begin(int timed) {
    return dcn_guard([&] { DcnShares::current = &shares_of_thread.emplace(1, timed != 0); });
}

// The time of the slowest thread over that of an even share; the cost of all tasks, or their seconds; the threads used.
DCN_EXPORT void dcn_shares_end(double* over_mean, double* total, int* threads) {
    DcnShares::current = nullptr;
    if (!shares_of_thread) return;
    *over_mean = shares_of_thread->over_mean();
    *total = shares_of_thread->total();
    *threads = shares_of_thread->threads();
    shares_of_thread.reset();
}
