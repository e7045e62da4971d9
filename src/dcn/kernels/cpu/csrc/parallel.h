// The one parallel loop of the CPU kernels.
//
//     dcn_parallel_for(tasks, threads, [&](int64_t task) { ... }, [&](int64_t task) { return what_it_costs; });
//     dcn_parallel_for(tasks, threads, [&](int64_t task, int worker) { ... }, cost);   // 0 <= worker < threads
//
// Tasks are handed out one by one by an atomic counter, so a core that is busy elsewhere only gets fewer of them. Which
// thread runs a task is not fixed: a deterministic result needs tasks that write disjoint memory. The threads are those
// of the OpenMP pool that torch already runs (parallel.cpp says how); an exception in a task is rethrown in the caller.
//
// A kernel with many short loops opens one team and runs the loops inside it:
//
//     dcn_with_team(threads, [&](DcnTeam& team) { team.loop(tasks, body); team.loop(more, other); });
//
// The threads stay between the loops, and a loop waits for running tasks only, never for a thread that has none: with a
// core busy elsewhere, joining the OpenMP pool after every loop waited for the thread that was not being run.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <type_traits>
#include <vector>

#include "shares.h"

// Calls body(context) on up to `threads` threads at once and returns when all of them have returned.
void dcn_run_team(int threads, void (*body)(void*), void* context);

template <class F>
struct DcnLoop {
    F& body;
    int64_t tasks;
    int threads;
    std::atomic<int64_t> next{0};
    std::atomic<int> workers{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error{};

    void run_one(int64_t task, int worker) {
        if constexpr (std::is_invocable_v<F&, int64_t, int>) {
            body(task, worker);
        } else {
            body(task);
        }
    }

    void work() noexcept {
        const int worker = workers.fetch_add(1, std::memory_order_relaxed);
        if (worker >= threads) return;
        try {
            while (!failed.load(std::memory_order_relaxed)) {
                const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
                if (task >= tasks) return;
                run_one(task, worker);
            }
        } catch (...) {
            if (!failed.exchange(true)) error = std::current_exception();
        }
    }
};

class DcnTeam {
   public:
    explicit DcnTeam(int threads) : threads_(threads) {}

    // Runs body(task, worker) for every task; call it from the thread that opened the team only.
    template <class F>
    void loop(int64_t tasks, F&& body) {
        if (threads_ <= 1 || tasks <= 1) {
            for (int64_t task = 0; task < tasks; ++task) call(body, task, 0);
            return;
        }
        constexpr int64_t most = 1 << 20;  // tasks of one round, so that they fit the ticket
        for (int64_t first = 0; first < tasks; first += most) {
            auto part = [&](int64_t task, int worker) { call(body, first + task, worker); };
            using Part = decltype(part);
            run_part(tasks - first < most ? tasks - first : most, &part, [](void* self, int64_t task, int worker) {
                (*static_cast<Part*>(self))(task, worker);
            });
        }
    }

    // The same; what a task costs matters to DcnShares only (shares.h).
    template <class F, class Cost>
    void loop(int64_t tasks, F&& body, Cost&&) {
        loop(tasks, body);
    }

    // The same for tasks whose neighbours share memory: every thread begins with a run of its own (dcn_runs) and helps the
    // others then. Where two cores have no cache in common, lines that both write to took up to 14 % of a convolution.
    template <class F, class Cost>
    void loop_in_runs(int64_t tasks, F&& body, Cost&& cost) {
        if (threads_ <= 1) return loop(tasks, body);
        const std::vector<int64_t> first = dcn_runs(tasks, threads_, cost);
        std::vector<std::atomic<int64_t>> next(first.size() - 1);
        for (size_t run = 0; run < next.size(); ++run) next[run].store(first[run], std::memory_order_relaxed);
        loop(threads_, [&](int64_t own, int worker) {
            for (int64_t i = 0; i <= threads_; ++i) {
                const auto run = static_cast<size_t>(i < threads_ ? (own + i) % threads_ : i);
                for (;;) {
                    const int64_t task = next[run].fetch_add(1, std::memory_order_relaxed);
                    if (task >= first[run + 1]) break;
                    call(body, task, worker);
                }
            }
        });
    }

    // What the other threads of the team do until the team is closed.
    void serve() noexcept;
    void close() noexcept { closed_.store(true, std::memory_order_release); }

   private:
    using Run = void (*)(void*, int64_t, int);

    template <class F>
    static void call(F& body, int64_t task, int worker) {
        if constexpr (std::is_invocable_v<F&, int64_t, int>) {
            body(task, worker);
        } else {
            body(task);
        }
    }

    void run_part(int64_t tasks, void* body, Run run);
    bool take_task(int worker) noexcept;

    const int threads_;
    // Number of the loop (16 bits), its tasks (24 bits), the next task (24 bits): claimed in one step, so a late
    // thread can never mistake one loop for another.
    std::atomic<uint64_t> ticket_{0};
    std::atomic<int64_t> done_{0};
    std::atomic<int> workers_{1};
    std::atomic<bool> closed_{false}, failed_{false};
    void* body_ = nullptr;
    Run run_ = nullptr;
    std::exception_ptr error_{};
};

// Chains of work whose links must be done in their order, by any thread each: tasks of a loop that call `next` once per
// link. No more threads than chains should do so.
class DcnChains {
   public:
    DcnChains(int64_t chains, int64_t links) : links_(links), state_(static_cast<size_t>(chains)) {
        for (auto& one : state_) one.store(0, std::memory_order_relaxed);
    }

    // body(chain, link) for the next link of the chain that is furthest behind of those that no other thread works on.
    template <class F>
    void next(F&& body) {
        const int64_t chain = claim();
        struct Release {
            std::atomic<int64_t>& state;
            ~Release() { state.fetch_add(1, std::memory_order_release); }
        } release{state_[static_cast<size_t>(chain)]};
        body(chain, release.state.load(std::memory_order_relaxed) / 2);
    }

   private:
    int64_t claim() noexcept;

    const int64_t links_;
    std::vector<std::atomic<int64_t>> state_;  // twice the links that are done, and one while the next is being done
};

template <class F>
void dcn_with_team(int threads, F&& body) {
    DcnTeam team(threads);
    if (threads <= 1) return body(team);
    struct Opening {
        DcnTeam& team;
        std::remove_reference_t<F>& body;
        std::atomic<bool> opened{false};
        std::exception_ptr error{};
    } opening{team, body};
    dcn_run_team(
        threads,
        [](void* self) {
            Opening& opening = *static_cast<Opening*>(self);
            if (opening.opened.exchange(true)) return opening.team.serve();
            try {
                opening.body(opening.team);
            } catch (...) {
                opening.error = std::current_exception();
            }
            opening.team.close();
        },
        &opening);
    if (opening.error) std::rethrow_exception(opening.error);
}

// `cost(task)`, in any unit, matters to DcnShares only. `needed`: the cut of the work depends on it, so it is done even
// where only costs are counted.
template <class F, class Cost>
void dcn_parallel_for(int64_t tasks, int threads, F&& body, Cost&& cost, bool needed = false) {
    if (tasks <= 0) return;
    if (DcnShares* shares = DcnShares::current) {
        shares->use(threads);
        shares->loop(tasks, body, cost);
        if (!needed || shares->timed()) return;
        threads = 1;
    }
    DcnLoop<std::remove_reference_t<F>> loop{body, tasks, tasks < threads ? static_cast<int>(tasks) : threads};
    if (loop.threads <= 1) {
        loop.threads = 1;
        loop.work();
    } else {
        dcn_run_team(loop.threads, [](void* self) { static_cast<decltype(loop)*>(self)->work(); }, &loop);
    }
    if (loop.error) std::rethrow_exception(loop.error);
}
