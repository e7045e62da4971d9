// Where the threads come from. torch runs an OpenMP pool of its own; a second pool beside it costs dearly as soon as
// a core is busy, because both spin. So _library.py looks for GOMP_parallel in the OpenMP runtime that torch has
// loaded (libgomp, LLVM and Intel's offer it too) and hands its address to us. Without one, a small pool that sleeps
// between calls is used.
#include "parallel.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "status.h"

namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<GompParallel> gomp_parallel{nullptr};

class SleepingPool {
   public:
    // Threads are never joined: at exit of the process they sleep on a condition variable that is never destroyed.
    void run(int threads, void (*body)(void*), void* context) {
        std::unique_lock<std::mutex> turn(one_caller_, std::try_to_lock);
        if (!turn.owns_lock()) return body(context);  // another thread uses the pool: run alone, the loop is dynamic
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (static_cast<int>(size_) < threads - 1) {
                std::thread([this] { serve(); }).detach();
                ++size_;
            }
            body_ = body;
            context_ = context;
            wanted_ = threads - 1;
        }
        wake_.notify_all();
        body(context);
        std::unique_lock<std::mutex> lock(mutex_);
        wanted_ = 0;  // who has not started by now is not needed
        done_.wait(lock, [this] { return running_ == 0; });
    }

   private:
    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return wanted_ > 0; });
            --wanted_;
            ++running_;
            const auto body = body_;
            void* const context = context_;
            lock.unlock();
            body(context);
            lock.lock();
            if (--running_ == 0) done_.notify_all();
        }
    }

    std::mutex one_caller_, mutex_;
    std::condition_variable wake_, done_;
    int size_ = 0, wanted_ = 0, running_ = 0;
    void (*body_)(void*) = nullptr;
    void* context_ = nullptr;
};

}  // namespace

void dcn_run_team(int threads, void (*body)(void*), void* context) {
    if (const GompParallel gomp = gomp_parallel.load(std::memory_order_relaxed)) {
        gomp(body, context, static_cast<unsigned>(threads), 0);
        return;
    }
    static SleepingPool* const pool = new SleepingPool;  // leaked on purpose, see run()
    pool->run(threads, body, context);
}

namespace {

constexpr uint64_t ticket_field = (uint64_t{1} << 24) - 1;

// Busy waiting for a few microseconds, then letting others have the core.
class Patience {
   public:
    void wait() noexcept {
        if (++turns_ < 2000) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
        } else {
            std::this_thread::yield();
        }
    }

   private:
    int turns_ = 0;
};

}  // namespace

int64_t DcnChains::claim() noexcept {
    for (Patience patience;; patience.wait()) {
        int64_t best = -1, behind = 2 * links_;
        for (size_t i = 0; i < state_.size(); ++i) {
            const int64_t state = state_[i].load(std::memory_order_relaxed);
            if (state % 2 || state >= behind) continue;
            best = static_cast<int64_t>(i);
            behind = state;
        }
        // Acquired: what the thread before did to the chain is seen.
        if (best < 0) continue;
        auto& state = state_[static_cast<size_t>(best)];
        if (state.compare_exchange_strong(behind, behind + 1, std::memory_order_acquire)) return best;
    }
}

bool DcnTeam::take_task(int worker) noexcept {
    const uint64_t seen = ticket_.load(std::memory_order_acquire);
    if ((seen & ticket_field) >= ((seen >> 24) & ticket_field)) return false;
    const uint64_t mine = ticket_.fetch_add(1, std::memory_order_acq_rel);
    const uint64_t task = mine & ticket_field;
    if (task >= ((mine >> 24) & ticket_field)) return false;
    // The loop cannot end before this task is counted as done, so body_ and run_ stand still.
    try {
        if (!failed_.load(std::memory_order_relaxed)) run_(body_, static_cast<int64_t>(task), worker);
    } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
    }
    done_.fetch_add(1, std::memory_order_release);
    return true;
}

void DcnTeam::run_part(int64_t tasks, void* body, Run run) {
    body_ = body;
    run_ = run;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 48) + 1;
    ticket_.store(number << 48 | static_cast<uint64_t>(tasks) << 24, std::memory_order_release);
    while (take_task(0)) {
    }
    for (Patience patience; done_.load(std::memory_order_acquire) != tasks;) patience.wait();
    if (failed_.load()) std::rethrow_exception(error_);
}

void DcnTeam::serve() noexcept {
    const int worker = workers_.fetch_add(1, std::memory_order_relaxed);
    if (worker >= threads_) return;
    Patience patience;
    while (!closed_.load(std::memory_order_acquire)) {
        if (take_task(worker)) {
            patience = Patience();
        } else {
            patience.wait();
        }
    }
}

// Address of the GOMP_parallel to use, or null for the library's own pool.
DCN_EXPORT void dcn_use_gomp(void* address) { gomp_parallel.store(reinterpret_cast<GompParallel>(address)); }
