// DCNv3 and DCNv4 on the CPU: how a call is cut into tasks. The caller is kernels/cpu/dcnv3.py.
//
// Forward and the gradients of offsets and masks: a task is a block of locations, which writes what is its own. The
// gradient of the map: a task is a group of an image or, where these do not come out even, a run of rows; it walks over
// all locations that reach them in order, so every pixel sums up in the same order for any number of threads. Small maps
// go another way (dcnv3_group.cpp), which gives the same bits.
#include "dcnv3.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "dcnv3_parts.h"
#include "integers.h"
#include "parallel.h"
#include "status.h"
#include "touch.h"

namespace dcn {
namespace {

// Taps of a block: their arrays take about 16 KiB in float32, half of the first-level cache.
constexpr int64_t block_taps = 320;

template <class S>
const DcnV3Loops<S, typename Compute<S>::type>& loops() {
    return of_type<S>(DCN_FOR_ISA(dcnv3_loops)());
}

// Brings what a small call reads and, where that fits too, writes into the cache: after a pause a call of 14 x 14
// locations of 256 channels then takes 0.6 of the time, all gradients 0.7.
void touch_tensors(const DcnV3Call& call) {
    const auto [input, output, offset, mask] = DcnV3Bytes(call);
    const int64_t reads = input + offset + mask + (call.grad_output ? output : 0);
    if (reads > touch_bytes) return;
    touch(call.input, input);
    touch(call.offset, offset);
    touch(call.mask, mask);
    touch(call.grad_output, output);
    const int64_t writes = call.output ? output : input + offset + mask;
    if (reads + writes > touch_bytes) return;
    touch_to_write(call.output, output);
    touch_to_write(call.grad_input, input);
    touch_to_write(call.grad_offset, offset);
    touch_to_write(call.grad_mask, mask);
}

// How a call is cut into blocks of about `block_taps` taps: runs of groups and, where all fit, runs of locations.
struct Blocks {
    int64_t locations, groups, group_runs, location_runs;

    Blocks(const DcnV3Call& call, int64_t all_groups) {
        groups = std::clamp<int64_t>(block_taps / call.taps, 1, all_groups);
        locations = groups < all_groups ? 1 : std::max<int64_t>(1, block_taps / (groups * call.taps));
        group_runs = ceil_div(all_groups, groups);
        location_runs = ceil_div(call.out[0] * call.out[1], locations);
    }

    int64_t rows() const { return locations * groups; }

    // Block `run` of the locations and `part` of the groups [first_group, end_group).
    DcnV3Block at(const DcnV3Call& call, int64_t image, int64_t run, int64_t part, int64_t first_group,
                  int64_t end_group) const {
        const int64_t first = run * locations, group = first_group + part * groups;
        return {image, first, std::min(locations, call.out[0] * call.out[1] - first),
                group, std::min(groups, end_group - group), 0, static_cast<int32_t>(call.height),
                static_cast<int32_t>(call.width), 0, 0};
    }
};

// body(block, arrays of the worker) for all blocks of the call, in parallel. A tap costs `placing` and what its corners do.
template <class T, class F>
void each_block(const DcnV3Call& call, int64_t placing, F&& body) {
    const Blocks blocks(call, call.groups);
    auto arrays = dcnv3_workers<T>(call, blocks.rows());
    const int64_t per_image = blocks.location_runs * blocks.group_runs;
    const auto block_of = [&](int64_t task) {
        const int64_t image = task / per_image, rest = task % per_image;
        return blocks.at(call, image, rest / blocks.group_runs, rest % blocks.group_runs, 0, call.groups);
    };
    dcn_parallel_for(
        call.batch * per_image, static_cast<int>(call.threads),
        [&](int64_t task, int worker) { body(block_of(task), arrays[worker].taps); },
        [&](int64_t task) {
            const DcnV3Block block = block_of(task);
            return block.count * block.groups * call.taps * (placing + corners_cost(call));
        });
}

// body(first tap, element of the location's first channel in an output, first channel of the group)
template <class F>
void each_group(const DcnV3Call& call, const DcnV3Block& block, F&& body) {
    const int64_t depth = call.channels / call.groups;
    int64_t tap = 0;
    for (int64_t i = 0; i < block.count; ++i) {
        const int64_t location = block.image * call.out[0] * call.out[1] + block.first + i;
        for (int64_t g = 0; g < block.groups; ++g, tap += call.taps) {
            body(tap, location * call.channels, (block.group + g) * depth);
        }
    }
}

template <class S>
void forward(const DcnV3Call& call) {
    if (dcnv3_groups_fit(call)) return dcnv3_group_forward<S>(call);
    using T = typename Compute<S>::type;
    const int64_t depth = call.channels / call.groups, row = call.width * call.channels;
    each_block<T>(call, placing_cost, [&](const DcnV3Block& block, const DcnV3Taps<T>& taps) {
        placing<T>().read(call, block, taps);
        placing<T>().corners(call, block, taps, true);
        const S* image = static_cast<const S*>(call.input) + block.image * call.height * row;
        const auto sum = loops<S>().sum;
        each_group(call, block, [&](int64_t tap, int64_t location, int64_t channel) {
            sum(image + channel, call.channels, row, taps, tap, call.taps, depth,
                static_cast<S*>(call.output) + location + channel);
        });
    });
}

// Products of the gradient of the output and the map, per tap and corner of a block.
template <class S>
void dots_of(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<typename Compute<S>::type>& taps) {
    const int64_t depth = call.channels / call.groups, row = call.width * call.channels;
    const S* image = static_cast<const S*>(call.input) + block.image * call.height * row;
    const auto dots = loops<S>().dots;
    each_group(call, block, [&](int64_t tap, int64_t location, int64_t channel) {
        dots(image + channel, call.channels, row, taps, tap, call.taps, depth,
             static_cast<const S*>(call.grad_output) + location + channel);
    });
}

template <class S>
void backward_places(const DcnV3Call& call) {
    using T = typename Compute<S>::type;
    each_block<T>(call, 2 * placing_cost, [&](const DcnV3Block& block, const DcnV3Taps<T>& taps) {
        placing<T>().read(call, block, taps);
        placing<T>().corners(call, block, taps, false);
        dots_of<S>(call, block, taps);
        placing<T>().gradients(call, block, taps);
    });
}

// Rows of the map that a run of locations reaches in a group: [low, high), none where low >= high.
struct Reach {
    int32_t low, high;
};

// Of all runs of locations of all pairs of an image and a group.
template <class T>
std::vector<Reach> reaches(const DcnV3Call& call, const Blocks& blocks, const std::vector<DcnV3Arrays<T>>& arrays) {
    constexpr int64_t together = 16;  // runs of a task
    DcnV3Call plain = call;  // only positions count
    plain.softmax = 0;
    const int64_t all = call.batch * call.groups * blocks.location_runs, height = call.height;
    std::vector<Reach> result(all);
    const auto run = [&](int64_t task, int worker) {
        for (int64_t i = task * together; i < std::min(all, (task + 1) * together); ++i) {
            const int64_t pair = i / blocks.location_runs, group = pair % call.groups;
            const DcnV3Block block =
                blocks.at(call, pair / call.groups, i % blocks.location_runs, 0, group, group + 1);
            const DcnV3Taps<T>& taps = arrays[worker].taps;
            placing<T>().read(plain, block, taps);
            T low = static_cast<T>(height), high = -1;
            for (int64_t k = 0; k < block.count * call.taps; ++k) {
                const T y = taps.y[k];
                if (!(y > -1 && y < static_cast<T>(height))) continue;
                low = std::min(low, y);
                high = std::max(high, y);
            }
            result[i] = {static_cast<int32_t>(std::max(low, T(0))), static_cast<int32_t>(std::min<T>(high + 2, static_cast<T>(height)))};
        }
    };
    dcn_parallel_for(ceil_div(all, together), static_cast<int>(call.threads), run,
                     [&](int64_t) { return together * blocks.locations * call.taps * placing_cost / 2; }, true);
    return result;
}

// What the rows of all pairs cost, one pair after the other. A run of them places the taps of all that reaches it.
class RowCosts {
   public:
    RowCosts(const DcnV3Call& call, const Blocks& blocks, const std::vector<Reach>& reach)
        : cost_(call.batch * call.groups * call.height), entry_(cost_.size()) {
        const int64_t rows = static_cast<int64_t>(cost_.size()), taps = blocks.locations * call.taps;
        std::vector<int64_t> begins(rows + 1), ends(rows + 1);  // of the reaches, at each row
        for (int64_t i = 0; i < static_cast<int64_t>(reach.size()); ++i) {
            const int64_t first = i / blocks.location_runs * call.height;
            const int64_t low = first + reach[i].low, high = first + reach[i].high;
            if (low >= high) continue;
            ++begins[low];
            ++ends[high];
            const int64_t each = corners_cost(call) * taps / (high - low);
            for (int64_t row = low; row < high; ++row) cost_[row] += each;
        }
        int64_t reached = 0;
        for (int64_t row = 0; row < rows; ++row) {
            reached -= ends[row];
            entry_[row] = reached * placing_cost * taps;
            reached += begins[row];
            cost_[row] += begins[row] * placing_cost * taps;
        }
    }

    int64_t of(int64_t first, int64_t end) const {
        return std::accumulate(cost_.begin() + first, cost_.begin() + end, entry_[first]);
    }

    std::vector<int64_t> even_runs(int64_t runs) const {
        return dcn_even_runs(static_cast<int64_t>(cost_.size()), runs, [&](int64_t row) { return cost_[row]; },
                             [&](int64_t row) { return entry_[row]; });
    }

   private:
    std::vector<int64_t> cost_, entry_;  // of a row; of a run that begins with it
};

// Adds up the gradient of rows of the map of one pair.
template <class S>
class InputRows {
    using T = typename Compute<S>::type;

   public:
    // Without reaches every run of locations counts.
    InputRows(const DcnV3Call& call, const Blocks& blocks, const std::vector<Reach>& reach)
        : call_(call), blocks_(blocks), reach_(reach), depth_(call.channels / call.groups), row_(call.width * depth_) {}

    void add(int64_t pair, int64_t first, int64_t end, const DcnV3Taps<T>& taps, std::vector<T>& sums) const {
        const int64_t image = pair / call_.groups, group = pair % call_.groups;
        sums.assign((end - first) * row_, T(0));
        const auto scatter = loops<S>().scatter;
        for (int64_t run = 0; run < blocks_.location_runs; ++run) {
            if (!reach_.empty()) {
                const Reach reach = reach_[pair * blocks_.location_runs + run];
                if (reach.low >= end || reach.high <= first) continue;
            }
            DcnV3Block block = blocks_.at(call_, image, run, 0, group, group + 1);
            block.row_first = static_cast<int32_t>(first);
            block.row_end = static_cast<int32_t>(end);
            placing<T>().read(call_, block, taps);
            placing<T>().corners(call_, block, taps, true);
            each_group(call_, block, [&](int64_t tap, int64_t location, int64_t channel) {
                scatter(sums.data() - first * row_, depth_, row_, taps, tap, call_.taps, depth_,
                        static_cast<const S*>(call_.grad_output) + location + channel);
            });
        }
        S* to = static_cast<S*>(call_.grad_input) + (image * call_.height + first) * call_.width * call_.channels;
        const auto put = of_type<S>(DCN_FOR_ISA(dcnv3_group_loops)()).put;
        put(sums.data(), (end - first) * call_.width, depth_, to + group * depth_, call_.channels);
    }

   private:
    const DcnV3Call& call_;
    const Blocks& blocks_;
    const std::vector<Reach>& reach_;
    const int64_t depth_, row_;
};

// Into how many parts, one after the other, a thread divides its rows: the sums of all threads together take at most 15 %
// of the tensors, or half of the maps in T.
template <class T>
int64_t parts_of_rows(const DcnV3Call& call) {
    const int64_t maps = call.batch * call.height * call.width * call.channels * static_cast<int64_t>(sizeof(T));
    return 100 * maps <= 15 * DcnV3Bytes(call).of_call(call) ? 1 : 2;
}

template <class S>
void backward_input(const DcnV3Call& call) {
    using T = typename Compute<S>::type;
    const int64_t pairs = call.batch * call.groups, height = call.height, threads = call.threads;
    if (!pairs || !height) return;
    const Blocks blocks(call, 1);
    auto arrays = dcnv3_workers<T>(call, blocks.rows());
    const bool whole = threads == 1 || (pairs >= 2 * threads && 10 * ceil_div(pairs, threads) * threads <= 11 * pairs);
    const std::vector<Reach> reach = whole ? std::vector<Reach>() : reaches<T>(call, blocks, arrays);
    const RowCosts costs(call, blocks, reach);
    const std::vector<int64_t> runs = whole ? std::vector<int64_t>() : costs.even_runs(threads);
    const int64_t tasks = whole ? pairs : static_cast<int64_t>(runs.size()) - 1;
    const int64_t parts = whole ? 1 : parts_of_rows<T>(call);
    // body(first row, end) for parts of a task, each of one pair.
    const auto each_part = [&](int64_t task, auto&& body) {
        const int64_t last = whole ? (task + 1) * height : runs[task + 1];
        for (int64_t at = whole ? task * height : runs[task]; at < last;) {
            const int64_t end = std::min(last, (at / height + 1) * height);
            const int64_t size = ceil_div(end - at, parts);
            for (; at < end; at += size) body(at, std::min(end, at + size));
            at = end;
        }
    };
    const InputRows<S> input(call, blocks, reach);
    std::vector<std::vector<T>> sums(threads);
    const auto run = [&](int64_t task, int worker) {
        each_part(task, [&](int64_t first, int64_t end) {
            const int64_t pair = first / height;
            input.add(pair, first - pair * height, end - pair * height, arrays[worker].taps, sums[worker]);
        });
    };
    const auto cost = [&](int64_t task) {
        int64_t total = whole ? blocks.location_runs * blocks.locations * call.taps * (placing_cost + corners_cost(call)) : 0;
        if (!whole) each_part(task, [&](int64_t first, int64_t end) { total += costs.of(first, end); });
        return total;
    };
    dcn_parallel_for(tasks, static_cast<int>(threads), run, cost);
}

template <class S>
void backward(const DcnV3Call& call) {
    if (dcnv3_groups_fit(call) && dcnv3_group_backward<S>(call)) return;
    if (call.grad_offset || call.grad_mask) backward_places<S>(call);
    if (call.grad_input) backward_input<S>(call);
}

// Products of a sample and a channel that are worth a thread: about 100 us. To wake one for less costs more.
constexpr int64_t thread_work = 250'000;

// body(call, value of the type of the map) with no more threads than the work is worth.
template <class F>
int typed(DcnV3Call call, F&& body) {
    const int64_t work = call.batch * call.out[0] * call.out[1] * call.channels * call.taps;
    call.threads = std::clamp<int64_t>(work / thread_work, 1, call.threads);
    return dcn_guard([&] {
        touch_tensors(call);
        for_type(call.dtype, [&](auto type) { body(call, type); });
    });
}

}  // namespace
}  // namespace dcn

DCN_EXPORT int dcn_dcnv3_forward(const DcnV3Call* call) {
    return dcn::typed(*call, [](const DcnV3Call& adjusted, auto type) { dcn::forward<decltype(type)>(adjusted); });
}

DCN_EXPORT int dcn_dcnv3_backward(const DcnV3Call* call) {
    return dcn::typed(*call, [](const DcnV3Call& adjusted, auto type) { dcn::backward<decltype(type)>(adjusted); });
}
