// DCNv3 and DCNv4 on small maps: a task is a group of an image. Its map is copied first, packed and between pixels of
// zeros, so that no corner needs a check and all stays in the first-level cache: in a map of 14 x 14 pixels of 256
// channels, what a group has fell into four of the 64 sets of a cache of 32 KiB. Backward, one walk over the locations
// takes all gradients. Together 0.75 of the time forward and 0.62 backward.
#include <cstdint>
#include <cstring>

#include "dcnv3.h"
#include "dcnv3_parts.h"
#include "parallel.h"
#include "workspace.h"

namespace dcn {
namespace {

// Bytes of a copy up to which this way is taken, so that the copy and the sums stay in a second-level cache. At 200 KB,
// a map of 56 x 56, it takes 0.8 of the time of the other way.
constexpr int64_t most_bytes = 256 << 10;

// What the copies of all threads may take: bytes, or a share of the tensors of the call. The goal is 20 % more than these
// in all. Where two copies per thread are beyond `double_share`, one serves for the map and then for the sums, which takes
// 4 to 10 % longer.
constexpr int64_t free_bytes = 256 << 10;
constexpr double most_share = 0.15, double_share = 0.1;

// Taps of a block, of which 16 locations of 9 are whole vectors for any instruction set.
constexpr int64_t block_taps = 144;

// The copy: a column of zeros left of the map, which is also right of the row before, one row above and two below.
struct Margins {
    int64_t pitch, pixels, depth;

    explicit Margins(const DcnV3Call& call)
        : pitch(call.width + 1), pixels((call.height + 3) * pitch + 1), depth(call.channels / call.groups) {}

    int64_t elements() const { return pixels * depth; }
    int64_t bytes(const DcnV3Call& call) const { return elements() * (call.dtype == dtype_f64 ? 8 : 4); }
    // Whether so many copies per thread are at most that share of the tensors.
    bool fit(const DcnV3Call& call, int64_t copies, double share) const {
        const double allowed = share * static_cast<double>(DcnV3Bytes(call).of_call(call));
        return copies * call.threads * bytes(call) <= std::max(free_bytes, static_cast<int64_t>(allowed));
    }
    int64_t row() const { return pitch * depth; }
    int64_t pixel(int64_t row) const { return (row + 1) * pitch + 1; }
};

// Everything a worker needs for one group after another.
template <class S>
class Group {
    using T = typename Compute<S>::type;

   public:
    static int64_t block_locations(const DcnV3Call& call) { return std::max<int64_t>(1, block_taps / call.taps); }

    Group(const DcnV3Call& call, const DcnV3Taps<T>& taps, T* map, T* sums)
        : call_(call), margins_(call), taps_(taps), loops_(of_type<S>(DCN_FOR_ISA(dcnv3_group_loops)())),
          map_(map), sums_(sums) {
        if (map_ && map_ != sums_) clear(map_);
    }

    // Copies the map of a group of an image, unless that is done.
    void take(int64_t pair) {
        pair_ = pair;
        if (pair == copied_) return;
        copied_ = pair;
        if (map_ == sums_) clear(map_);
        const S* from = static_cast<const S*>(call_.input) + first_element(call_.height * call_.width);
        for (int64_t row = 0; row < call_.height; ++row) {
            loops_.take(from + row * call_.width * call_.channels, call_.channels, call_.width, margins_.depth,
                        map_ + margins_.pixel(row) * margins_.depth);
        }
    }

    void forward(int64_t pair, int64_t first, int64_t end) {
        take(pair);
        each_block(first, end, true, [&](const DcnV3Block& block, int64_t element) {
            loops_.sum(map_, margins_.row(), taps_, block.count, call_.taps, static_cast<S*>(call_.output) + element,
                       call_.channels);
        });
    }

    // Gradients of the taps of the locations [first, end), of the map, or both: of all locations then.
    void backward(int64_t pair, int64_t first, int64_t end, bool of_taps, bool of_map) {
        if (map_ == sums_ && of_taps && of_map) {
            walk(pair, first, end, true, false);
            walk(pair, first, end, false, true);
        } else {
            walk(pair, first, end, of_taps, of_map);
        }
    }

   private:
    void clear(T* copy) const { std::memset(copy, 0, margins_.elements() * sizeof(T)); }

    // One walk over the locations of a group, which takes the gradients of the taps, of the map, or both.
    void walk(int64_t pair, int64_t first, int64_t end, bool of_taps, bool of_map) {
        if (of_taps) take(pair);
        pair_ = pair;
        if (of_map && map_ == sums_) copied_ = -1;
        if (of_map) clear(sums_);
        const S* grad = static_cast<const S*>(call_.grad_output);
        each_block(first, end, of_map, [&](const DcnV3Block& block, int64_t element) {
            if (of_map) {
                loops_.scatter(sums_, margins_.row(), taps_, block.count, call_.taps, grad + element, call_.channels);
            }
            if (!of_taps) return;
            loops_.dots(map_, margins_.row(), taps_, block.count, call_.taps, grad + element, call_.channels);
            placing<T>().gradients(call_, block, taps_);
        });
        if (of_map) put();
    }

    int64_t image() const { return pair_ / call_.groups; }
    int64_t group() const { return pair_ % call_.groups; }

    // The group's first element of an image of so many pixels.
    int64_t first_element(int64_t pixels) const {
        return image() * pixels * call_.channels + group() * margins_.depth;
    }

    // body(block, first element of its first location) with the taps placed.
    template <class F>
    void each_block(int64_t first, int64_t end, bool weights, F&& body) {
        const int64_t most = block_locations(call_), start = first_element(call_.out[0] * call_.out[1]);
        for (; first < end; first += most) {
            const DcnV3Block block = {image(), first, std::min(most, end - first), group(), 1,
                                      0, static_cast<int32_t>(call_.height), static_cast<int32_t>(margins_.pitch),
                                      static_cast<int32_t>(margins_.pixel(0)),
                                      static_cast<int32_t>(margins_.pixel(call_.height) - 1)};
            placing<T>().read(call_, block, taps_);
            placing<T>().corners(call_, block, taps_, weights);
            body(block, start + first * call_.channels);
        }
    }

    void put() const {
        S* to = static_cast<S*>(call_.grad_input) + first_element(call_.height * call_.width);
        for (int64_t row = 0; row < call_.height; ++row) {
            loops_.put(sums_ + margins_.pixel(row) * margins_.depth, call_.width, margins_.depth,
                       to + row * call_.width * call_.channels, call_.channels);
        }
    }

    const DcnV3Call& call_;
    const Margins margins_;
    const DcnV3Taps<T>& taps_;
    const DcnV3GroupLoops<S, T>& loops_;
    T *map_, *sums_;
    int64_t pair_ = -1, copied_ = -1;
};

// body(group of the worker, task) for all tasks, in parallel.
template <class S, class F, class Cost>
void each_task(const DcnV3Call& call, int64_t tasks, bool map, bool sums, F&& body, Cost&& cost) {
    using T = typename Compute<S>::type;
    const int64_t elements = Margins(call).elements();
    const bool one = map && sums && !Margins(call).fit(call, 2, double_share);
    Workspace workspace;
    std::vector<Room<T>> maps, sum_maps;
    for (int64_t i = 0; i < call.threads; ++i) {
        maps.push_back(workspace.plan<T>(map ? elements : 0));
        sum_maps.push_back(one ? maps.back() : workspace.plan<T>(sums ? elements : 0));
    }
    workspace.take();
    const auto arrays = dcnv3_workers<T>(call, Group<S>::block_locations(call));
    std::vector<Group<S>> groups;
    groups.reserve(call.threads);
    for (int64_t i = 0; i < call.threads; ++i) {
        groups.emplace_back(call, arrays[i].taps, map ? workspace.at(maps[i]) : nullptr,
                            sums ? workspace.at(sum_maps[i]) : nullptr);
    }
    dcn_parallel_for(tasks, static_cast<int>(call.threads),
                     [&](int64_t task, int worker) { body(groups[worker], task); }, cost);
}

// A task of the backward pass: see Group::backward.
struct GroupTask {
    int64_t pair, first, end;
    bool of_taps, of_map;
};

int64_t cost_of(const DcnV3Call& call, const GroupTask& task) {
    const int64_t map = call.height * call.width * (call.channels / call.groups);
    const int64_t corners = corners_cost(call) * ((task.of_taps ? 1 : 0) + (task.of_map ? 1 : 0));
    const int64_t taps = (task.end - task.first) * call.taps * (placing_cost * (task.of_taps ? 2 : 1) + corners);
    return taps + map * (task.of_map ? 3 : 1);
}

// Whole pairs and, of those that are left over for the last turn of the threads, the gradient of the map and parts of those
// of the taps.
std::vector<GroupTask> group_tasks(const DcnV3Call& call) {
    constexpr int64_t least = 32, most = 16;  // locations of a part; parts
    const bool of_taps = call.grad_offset || call.grad_mask, of_map = call.grad_input;
    const int64_t pairs = call.batch * call.groups, locations = call.out[0] * call.out[1];
    const int64_t left = of_taps && of_map ? pairs % call.threads : 0;
    const int64_t parts = std::clamp<int64_t>(locations / least, 1, most);
    std::vector<GroupTask> tasks;
    for (int64_t pair = 0; pair < pairs - left; ++pair) tasks.push_back({pair, 0, locations, of_taps, of_map});
    for (int64_t pair = pairs - left; pair < pairs; ++pair) tasks.push_back({pair, 0, locations, false, true});
    for (int64_t pair = pairs - left; pair < pairs; ++pair) {
        for (int64_t i = 0; i < parts; ++i) {
            tasks.push_back({pair, i * locations / parts, (i + 1) * locations / parts, true, false});
        }
    }
    return tasks;
}

}  // namespace

bool dcnv3_groups_fit(const DcnV3Call& call) {
    const Margins margins(call);
    // A location samples at least as much as copying its pixel takes.
    return margins.bytes(call) <= most_bytes && margins.fit(call, 1, most_share) &&
           call.out[0] * call.out[1] * call.taps >= call.height * call.width;
}

template <class S>
void dcnv3_group_forward(const DcnV3Call& call) {
    // Two tasks per thread at least, as long as they are longer than the copy.
    const int64_t locations = call.out[0] * call.out[1], pairs = call.batch * call.groups;
    if (!pairs) return;
    int64_t parts = std::clamp<int64_t>(ceil_div(2 * call.threads, pairs), 1, call.threads > 1 ? 4 : 1);
    const auto even = [&] { return 100 * ceil_div(pairs * parts, call.threads) * call.threads <= 108 * pairs * parts; };
    while (call.threads > 1 && parts < 8 && !even()) ++parts;
    const int64_t part = ceil_div(locations, parts);
    const auto end_of = [&](int64_t task) { return std::min(locations, (task % parts + 1) * part); };
    each_task<S>(
        call, pairs * parts, true, false,
        [&](Group<S>& group, int64_t task) { group.forward(task / parts, task % parts * part, end_of(task)); },
        [&](int64_t task) {
            const int64_t count = std::max<int64_t>(0, end_of(task) - task % parts * part);
            return cost_of(call, {0, 0, count, false, true});
        });
}

template <class S>
bool dcnv3_group_backward(const DcnV3Call& call) {
    const std::vector<GroupTask> tasks = group_tasks(call);
    const auto cost = [&](int64_t task) { return cost_of(call, tasks[task]); };
    const int64_t count = static_cast<int64_t>(tasks.size());
    if (call.threads > 1) {
        DcnShares shares(static_cast<int>(call.threads));
        shares.loop(count, [](int64_t) {}, cost);
        if (shares.over_mean() > 1.1) return false;
    }
    each_task<S>(
        call, count, call.grad_offset || call.grad_mask, call.grad_input != nullptr,
        [&](Group<S>& group, int64_t task) {
            const auto [pair, first, end, of_taps, of_map] = tasks[task];
            group.backward(pair, first, end, of_taps, of_map);
        },
        cost);
    return true;
}

template void dcnv3_group_forward<float>(const DcnV3Call&);
template void dcnv3_group_forward<double>(const DcnV3Call&);
template void dcnv3_group_forward<Half>(const DcnV3Call&);
template void dcnv3_group_forward<BFloat>(const DcnV3Call&);
template bool dcnv3_group_backward<float>(const DcnV3Call&);
template bool dcnv3_group_backward<double>(const DcnV3Call&);
template bool dcnv3_group_backward<Half>(const DcnV3Call&);
template bool dcnv3_group_backward<BFloat>(const DcnV3Call&);

}  // namespace dcn
