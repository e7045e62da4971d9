// How the work of a call is shared out among threads, told apart from doing it.
//
// A DcnShares takes the place of a team: its loops only add up what their tasks cost, or do them one by one and take the
// time of each.
//
// While DcnShares::current is set, all loops of that thread go there: those of dcn_parallel_for and those of a team. They say
// how evenly the threads of a call, of equal speed, would have shared its work.
//
// Tasks go to the thread that is free first (`loop_in_runs`: those of its own run first), as they do in a DcnTeam, and every
// loop ends with its last task.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <type_traits>
#include <vector>

// Tasks as runs of neighbours of about the same cost, one per thread, and a last one of what follows the last task of the
// highest cost: small tasks at the end even out what the threads have done. Of few tasks for many threads all are in the
// last run, in which they are shared more evenly. Entry i is the first task of run i.
template <class Cost>
std::vector<int64_t> dcn_runs(int64_t tasks, int64_t threads, Cost&& cost) {
    std::vector<double> before{0};  // the cost of all tasks before each
    double highest = 0;
    int64_t end = 0;
    for (int64_t i = 0; i < tasks; ++i) {
        const double one = static_cast<double>(cost(i));
        before.push_back(before.back() + one);
        if (one < highest) continue;
        highest = one;
        end = i + 1;
    }
    if (threads > 8 && tasks < 16 * threads) end = 0;  // one thread had up to 28 % more than the mean
    std::vector<int64_t> first{0};
    for (int64_t i = 0; i < end; ++i) {
        const double share = before[end] / static_cast<double>(threads), middle = (before[i] + before[i + 1]) / 2;
        while (first.size() < static_cast<size_t>(threads) && static_cast<double>(first.size()) * share <= middle) {
            first.push_back(i);
        }
    }
    first.resize(static_cast<size_t>(threads) + 1, end);
    first.push_back(tasks);
    return first;
}

// Neighbouring units as at most `runs` runs, of which the dearest is as cheap as it can be. A run costs what its units do
// and `entry(i)` more where it begins with unit i. Entry i of the result is the first unit of run i, the last one `units`.
template <class Cost, class Entry>
std::vector<int64_t> dcn_even_runs(int64_t units, int64_t runs, Cost&& cost, Entry&& entry) {
    std::vector<double> before{0};
    for (int64_t i = 0; i < units; ++i) before.push_back(before.back() + static_cast<double>(cost(i)));
    const auto cut = [&](double limit) {
        std::vector<int64_t> first{0};
        while (first.back() < units) {
            const auto from = before.begin() + first.back();
            const double room = *from + limit - static_cast<double>(entry(first.back()));
            first.push_back(std::upper_bound(from + 1, before.end(), room) - 1 - before.begin());
            if (first.back() == from - before.begin()) ++first.back();  // one unit at least
        }
        return first;
    };
    double low = before.back() / static_cast<double>(runs), high = low;
    while (static_cast<int64_t>(cut(high).size()) - 1 > runs) high *= 2;
    for (int step = 0; step < 12; ++step) {
        const double middle = (low + high) / 2;
        (static_cast<int64_t>(cut(middle).size()) - 1 <= runs ? high : low) = middle;
    }
    return cut(high);
}

class DcnShares {
   public:
    // `timed`: do the tasks and take their time; else only their costs count.
    explicit DcnShares(int threads, bool timed = false) : timed_(timed), busy_(static_cast<size_t>(threads), 0.0) {}

    template <class F, class Cost>
    void loop(int64_t tasks, F&& body, Cost&& cost) {
        std::fill(busy_.begin(), busy_.end(), 0.0);
        for (int64_t i = 0; i < tasks; ++i) {
            const auto thread = std::min_element(busy_.begin(), busy_.end());
            add(thread - busy_.begin(), one(i, thread - busy_.begin(), body, cost));
        }
        longest_ += *std::max_element(busy_.begin(), busy_.end());
    }

    template <class F, class Cost>
    void loop_in_runs(int64_t tasks, F&& body, Cost&& cost) {
        const int64_t threads = static_cast<int64_t>(busy_.size());
        const std::vector<int64_t> first = dcn_runs(tasks, threads, cost);
        std::vector<int64_t> next(first.begin(), first.end() - 1);
        std::fill(busy_.begin(), busy_.end(), 0.0);
        for (int64_t i = 0; i < tasks; ++i) {
            const int64_t own = std::min_element(busy_.begin(), busy_.end()) - busy_.begin();
            int64_t at = 0, run = own;
            while (next[run] == first[run + 1]) run = ++at < threads ? (own + at) % threads : threads;
            add(own, one(next[run]++, own, body, cost));
        }
        longest_ += *std::max_element(busy_.begin(), busy_.end());
    }

    // The time of the call over that of an even share; 1 is perfect.
    double over_mean() const { return total_ > 0 ? longest_ * static_cast<double>(busy_.size()) / total_ : 1.0; }
    // The cost of all tasks, or the seconds that they took.
    double total() const { return total_; }
    int threads() const { return static_cast<int>(busy_.size()); }
    bool timed() const { return timed_; }
    // Where a call runs fewer threads than it may, it says so; only its loops follow.
    void use(int threads) { busy_.resize(static_cast<size_t>(threads)); }

    static inline thread_local DcnShares* current = nullptr;

   private:
    static double seconds() {
#ifdef CLOCK_THREAD_CPUTIME_ID
        timespec now{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
#else
        return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
#endif
    }

    template <class F, class Cost>
    double one(int64_t task, int64_t worker, F& body, Cost& cost) const {
        if (!timed_) return static_cast<double>(cost(task));
        const double start = seconds();
        if constexpr (std::is_invocable_v<F&, int64_t, int>) {
            body(task, static_cast<int>(worker));
        } else {
            body(task);
        }
        return seconds() - start;
    }

    void add(int64_t thread, double one) {
        busy_[static_cast<size_t>(thread)] += one;
        total_ += one;
    }

    const bool timed_;
    std::vector<double> busy_;
    double total_ = 0, longest_ = 0;
};
