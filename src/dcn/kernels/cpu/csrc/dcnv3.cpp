// DCNv3 and DCNv4 on the CPU: how a call is cut into tasks. The caller is kernels/cpu/dcnv3.py.
//
// Forward and the gradients of offsets and masks: a task is a block of locations, which writes what is its own. The
// gradient of the map: a task is a group of an image, or a stripe of its rows where there are fewer groups than threads
// need; it walks over all locations in order, so every pixel sums up in the same order for any number of threads. Small
// maps go another way (dcnv3_group.cpp), which gives the same bits.
#include "dcnv3.h"

#include <algorithm>
#include <cstdint>
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

// body(block, arrays of the worker) for all blocks of the call, in parallel.
template <class T, class F>
void each_block(const DcnV3Call& call, F&& body) {
    const Blocks blocks(call, call.groups);
    auto arrays = dcnv3_workers<T>(call, blocks.rows());
    const int64_t per_image = blocks.location_runs * blocks.group_runs;
    dcn_parallel_for(call.batch * per_image, static_cast<int>(call.threads), [&](int64_t task, int worker) {
        const int64_t image = task / per_image, rest = task % per_image;
        const DcnV3Block block =
            blocks.at(call, image, rest / blocks.group_runs, rest % blocks.group_runs, 0, call.groups);
        body(block, arrays[worker].taps);
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
    each_block<T>(call, [&](const DcnV3Block& block, const DcnV3Taps<T>& taps) {
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
    each_block<T>(call, [&](const DcnV3Block& block, const DcnV3Taps<T>& taps) {
        placing<T>().read(call, block, taps);
        placing<T>().corners(call, block, taps, false);
        dots_of<S>(call, block, taps);
        placing<T>().gradients(call, block, taps);
    });
}

template <class S>
void backward_input(const DcnV3Call& call) {
    using T = typename Compute<S>::type;
    const int64_t depth = call.channels / call.groups, pairs = call.batch * call.groups;
    if (!pairs) return;
    // Two tasks per thread at least. The sums of all threads together then take at most half of the map in T.
    const int64_t most = call.threads > 1 ? call.height : 1;
    const int64_t stripes = std::clamp<int64_t>(ceil_div(2 * call.threads, pairs), 1, most);
    const int64_t rows = ceil_div(call.height, stripes), row = call.width * depth;
    const Blocks blocks(call, 1);
    auto arrays = dcnv3_workers<T>(call, blocks.rows());
    std::vector<std::vector<T>> sums(call.threads);
    const auto put = of_type<S>(DCN_FOR_ISA(dcnv3_group_loops)()).put;
    dcn_parallel_for(pairs * stripes, static_cast<int>(call.threads), [&](int64_t task, int worker) {
        const int64_t image = task / stripes / call.groups, group = task / stripes % call.groups;
        const int64_t first = task % stripes * rows, end = std::min(call.height, first + rows);
        if (first >= end) return;
        std::vector<T>& sum = sums[worker];
        sum.assign((end - first) * row, T(0));
        const DcnV3Taps<T>& taps = arrays[worker].taps;
        const auto scatter = loops<S>().scatter;
        for (int64_t run = 0; run < blocks.location_runs; ++run) {
            DcnV3Block block = blocks.at(call, image, run, 0, group, group + 1);
            block.row_first = static_cast<int32_t>(first);
            block.row_end = static_cast<int32_t>(end);
            placing<T>().read(call, block, taps);
            placing<T>().corners(call, block, taps, true);
            each_group(call, block, [&](int64_t tap, int64_t location, int64_t channel) {
                scatter(sum.data() - first * row, depth, row, taps, tap, call.taps, depth,
                        static_cast<const S*>(call.grad_output) + location + channel);
            });
        }
        S* to = static_cast<S*>(call.grad_input) + (image * call.height + first) * call.width * call.channels;
        put(sum.data(), (end - first) * call.width, depth, to + group * depth, call.channels);
    });
}

template <class S>
void backward(const DcnV3Call& call) {
    if (dcnv3_groups_fit(call) && call.batch * call.groups >= 2 * call.threads) return dcnv3_group_backward<S>(call);
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
