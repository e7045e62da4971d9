// How the work of a call is shared out, without doing it: a team whose loops only add up what their tasks cost.
//
//     call.run_loops(DcnTeam&)      does the work
//     call.run_loops(DcnShares&)    says how evenly `threads` threads of equal speed would have shared it
//
// Tasks go to the thread that is free first (`loop_in_runs`: those of its own run first), as they do in a DcnTeam, and every
// loop ends with its last task.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"

class DcnShares {
   public:
    explicit DcnShares(int threads) : busy_(static_cast<size_t>(threads), 0.0) {}

    template <class F, class Cost>
    void loop(int64_t tasks, F&&, Cost&& cost) {
        std::fill(busy_.begin(), busy_.end(), 0.0);
        for (int64_t i = 0; i < tasks; ++i) {
            const double one = static_cast<double>(cost(i));
            *std::min_element(busy_.begin(), busy_.end()) += one;
            total_ += one;
        }
        longest_ += *std::max_element(busy_.begin(), busy_.end());
    }

    template <class F, class Cost>
    void loop_in_runs(int64_t tasks, F&&, Cost&& cost) {
        const size_t threads = busy_.size();
        const std::vector<int64_t> first = dcn_runs(tasks, static_cast<int64_t>(threads), cost);
        std::vector<int64_t> next(first.begin(), first.end() - 1);
        std::fill(busy_.begin(), busy_.end(), 0.0);
        for (int64_t i = 0; i < tasks; ++i) {
            const auto thread = std::min_element(busy_.begin(), busy_.end());
            const auto own = static_cast<size_t>(thread - busy_.begin());
            size_t at = 0, run = own;
            while (next[run] == first[run + 1]) run = ++at < threads ? (own + at) % threads : threads;
            const double one = static_cast<double>(cost(next[run]++));
            *thread += one;
            total_ += one;
        }
        longest_ += *std::max_element(busy_.begin(), busy_.end());
    }

    // The time of the call over that of an even share; 1 is perfect.
    double over_mean() const { return total_ > 0 ? longest_ * static_cast<double>(busy_.size()) / total_ : 1.0; }

   private:
    std::vector<double> busy_;
    double total_ = 0, longest_ = 0;
};
