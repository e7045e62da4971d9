// Multi-scale deformable attention: the loops over images, heads and queries.
//
// Forward: a task is some queries of one head. Backward: a task is one level of one head, so that no two tasks write to
// one pixel, and the order of every sum is that of the queries, whatever the number of threads. Its pixels are copied
// together first: at a distance of M * D elements they would compete for an eighth of the cache.
#include "ms_deform_attn.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "ms_deform_attn_kernels.h"
#include "parallel.h"
#include "status.h"
#include "tile_plan.h"
#include "workspace.h"

namespace dcn {
namespace {

constexpr int64_t block_samples = 256;  // located at a time: 20 KiB of addresses and weights, which stay in the L1 cache
constexpr int64_t task_queries = 64;

const AttnTable& table() { return DCN_FOR_ISA(attn_table)(); }

template <class T>
const AttnTaps<T>& taps() {
    if constexpr (std::is_same_v<T, double>) {
        return DCN_FOR_ISA(attn_taps_table)().f64;
    } else {
        return DCN_FOR_ISA(attn_taps_table)().f32;
    }
}

template <class S>
const AttnRows<S, typename Compute<S>::type>& rows() {
    if constexpr (std::is_same_v<S, double>) {
        return table().rows_f64;
    } else if constexpr (std::is_same_v<S, float>) {
        return table().rows_f32;
    } else if constexpr (std::is_same_v<S, Half>) {
        return table().rows_f16;
    } else {
        return table().rows_bf16;
    }
}

template <class T>
const AttnGradients<T>& gradients() {
    if constexpr (std::is_same_v<T, double>) {
        return table().gradients_f64;
    } else {
        return table().gradients_f32;
    }
}

template <class S, class T>
void widen_run(const S* from, int64_t count, T* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(widen(from[i]));
}

template <class S, class T>
void narrow_run(const T* from, int64_t count, S* to) {
    for (int64_t i = 0; i < count; ++i) narrow(from[i], to[i]);
}

// Elements of a tensor of one of several types; F is called with a typed null pointer.
template <class F>
void with_type(int64_t dtype, F&& body) {
    switch (dtype) {
        case dtype_f32: return body(static_cast<float*>(nullptr));
        case dtype_f64: return body(static_cast<double*>(nullptr));
        case dtype_f16: return body(static_cast<Half*>(nullptr));
        default: return body(static_cast<BFloat*>(nullptr));
    }
}

// Locations and attention weights may be float32 beside half-precision values.
template <class T>
void read(const void* from, int64_t dtype, int64_t start, int64_t count, T* to) {
    with_type(dtype, [&](auto* type) {
        using S = std::remove_pointer_t<decltype(type)>;
        widen_run(static_cast<const S*>(from) + start, count, to);
    });
}

template <class T>
void write(const T* from, int64_t count, void* to, int64_t dtype, int64_t start) {
    with_type(dtype, [&](auto* type) {
        using S = std::remove_pointer_t<decltype(type)>;
        if constexpr (std::is_same_v<S, double> == std::is_same_v<T, double>) {
            narrow_run(from, count, static_cast<S*>(to) + start);
        }
    });
}

// Room for `count` samples and their levels.
template <class T>
struct SampleRooms {
    Room<T> location, attention, weight[4], right, down, dots, width, height;
    Room<int64_t> place[4], start;
    Room<int32_t> columns, rows;

    void plan(Workspace& space, int64_t count) {
        location = space.plan<T>(2 * count);
        for (auto* room : {&attention, &right, &down, &width, &height}) *room = space.plan<T>(count);
        for (auto& room : weight) room = space.plan<T>(count);
        dots = space.plan<T>(4 * count);
        for (auto& room : place) room = space.plan<int64_t>(count);
        start = space.plan<int64_t>(count);
        for (auto* room : {&columns, &rows}) *room = space.plan<int32_t>(count);
    }

    AttnSamples<T> samples(const Workspace& space) const {
        AttnSamples<T> at{};
        at.location = space.at(location);
        at.attention = space.at(attention);
        for (int k = 0; k < 4; ++k) {
            at.place[k] = space.at(place[k]);
            at.weight[k] = space.at(weight[k]);
        }
        at.right = space.at(right);
        at.down = space.at(down);
        at.dots = space.at(dots);
        return at;
    }

    AttnLevels<T> levels(const Workspace& space) const {
        return {space.at(width), space.at(height), space.at(columns), space.at(rows), space.at(start)};
    }
};

template <class T>
void set_level(const AttnLevels<T>& levels, int64_t first, int64_t count, int64_t height, int64_t width,
               int64_t start) {
    std::fill_n(levels.height + first, count, static_cast<T>(height));
    std::fill_n(levels.width + first, count, static_cast<T>(width));
    std::fill_n(levels.rows + first, count, static_cast<int32_t>(height));
    std::fill_n(levels.columns + first, count, static_cast<int32_t>(width));
    std::fill_n(levels.start + first, count, start);
}

// Queries whose samples are located together, `each` samples per query; at least one.
int64_t block_queries(int64_t each, int64_t queries) {
    const int64_t fitting = std::max<int64_t>(1, block_samples / std::max<int64_t>(each, 1));
    return std::max<int64_t>(1, std::min(fitting, queries));
}

template <class T>
int64_t bytes_between(const void* base, const T* to) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(base));
}

template <class S>
class Forward {
    using T = typename Compute<S>::type;

   public:
    explicit Forward(const DcnMsDeformAttn& call)
        : call_(call), each_(call.levels * call.points), block_(block_queries(each_, call.queries)) {
        workers_.resize(call.threads);
        for (auto& worker : workers_) worker.plan(space_, block_ * each_);
        const Room<T> rows = space_.plan<T>(call.threads * call.channels);
        const Room<S> outside = space_.plan<S>(call.channels);
        space_.take();
        outputs_ = space_.at(rows);
        outside_ = space_.at(outside);
        std::fill_n(outside_, call.channels, S{});
        for (const auto& worker : workers_) {
            for (int64_t query = 0; query < block_; ++query) {
                for (int64_t l = 0; l < call.levels; ++l) {
                    set_level(worker.levels(space_), (query * call.levels + l) * call.points, call.points,
                              call.shapes[2 * l], call.shapes[2 * l + 1], call.starts[l] * pixel_bytes());
                }
            }
        }
    }

    void run() {
        const int64_t runs = (call_.queries + task_queries - 1) / task_queries;
        dcn_parallel_for(call_.batch * call_.heads * runs, static_cast<int>(call_.threads), [&](int64_t task, int worker) {
            const int64_t head = task / runs % call_.heads, image = task / runs / call_.heads;
            const int64_t first = task % runs * task_queries, end = std::min(first + task_queries, call_.queries);
            for (int64_t query = first; query < end; query += block_)
                queries(image, head, query, std::min(block_, end - query), worker);
        });
    }

   private:
    int64_t pixel_bytes() const { return call_.heads * call_.channels * static_cast<int64_t>(sizeof(S)); }

    void queries(int64_t image, int64_t head, int64_t first, int64_t count, int worker) {
        const AttnSamples<T> samples = workers_[worker].samples(space_);
        const S* base = static_cast<const S*>(call_.value) +
                        (image * call_.places * call_.heads + head) * call_.channels;
        const int64_t row = (image * call_.queries + first) * call_.heads + head;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t from = (row + i * call_.heads) * each_;
            read(call_.locations, call_.location_dtype, 2 * from, 2 * each_, samples.location + 2 * i * each_);
            read(call_.weights, call_.weight_dtype, from, each_, samples.attention + i * each_);
        }
        taps<T>().locate(samples, workers_[worker].levels(space_), count * each_, pixel_bytes(),
                         bytes_between(base, outside_), false);
        for (int64_t i = 0; i < count; ++i) {
            S* output = static_cast<S*>(call_.output) + (row + i * call_.heads) * call_.channels;
            if constexpr (std::is_same_v<S, T>) {
                rows<S>().gather(output, base, samples, i * each_, each_, call_.channels);
            } else {
                T* sums = outputs_ + worker * call_.channels;
                rows<S>().gather(sums, base, samples, i * each_, each_, call_.channels);
                narrow_run(sums, call_.channels, output);
            }
        }
    }

    const DcnMsDeformAttn& call_;
    const int64_t each_, block_;  // samples per query; queries per block
    Workspace space_;
    std::vector<SampleRooms<T>> workers_;
    T* outputs_ = nullptr;
    S* outside_ = nullptr;
};

// Whether every row of value belongs to exactly one level.
bool levels_tile(const DcnMsDeformAttn& call) {
    std::vector<std::pair<int64_t, int64_t>> runs;
    for (int64_t l = 0; l < call.levels; ++l) {
        const int64_t area = call.shapes[2 * l] * call.shapes[2 * l + 1];
        if (area) runs.emplace_back(call.starts[l], area);
    }
    std::sort(runs.begin(), runs.end());
    int64_t next = 0;
    for (const auto& [start, area] : runs) {
        if (start != next) return false;
        next += area;
    }
    return next == call.places;
}

template <class S>
class Backward {
    using T = typename Compute<S>::type;

   public:
    explicit Backward(const DcnMsDeformAttn& call)
        : call_(call), block_(block_queries(call.points, call.queries)), tiled_(levels_tile(call)) {
        int64_t largest = 0;
        for (int64_t l = 0; l < call.levels; ++l)
            largest = std::max(largest, call.shapes[2 * l] * call.shapes[2 * l + 1]);
        const int64_t tasks = call.batch * call.heads * (tiled_ ? call.levels : 1);
        workers_.resize(std::max<int64_t>(1, std::min(call.threads, tasks)));
        for (auto& worker : workers_) {
            worker.rooms.plan(space_, block_ * call.points);
            worker.grad = space_.plan<T>(call.channels);
            worker.values = space_.plan<T>(samples_wanted() ? (largest + 1) * call.channels : 0);
            worker.sums = space_.plan<T>(call.grad_value ? (largest + 1) * call.channels : 0);
        }
        space_.take();
    }

    void run() {
        const int64_t threads = static_cast<int64_t>(workers_.size());
        if (tiled_) {
            const int64_t levels = call_.levels;
            dcn_parallel_for(call_.batch * call_.heads * levels, static_cast<int>(threads), [&](int64_t task, int worker) {
                level(task / levels / call_.heads, task / levels % call_.heads, task % levels, workers_[worker]);
            });
            return;
        }
        if (call_.grad_value) {
            const int64_t count = call_.batch * call_.places * call_.heads * call_.channels;
            std::fill_n(static_cast<S*>(call_.grad_value), count, S{});
        }
        // Levels may share pixels: one task takes them one after the other.
        dcn_parallel_for(call_.batch * call_.heads, static_cast<int>(threads), [&](int64_t task, int worker) {
            for (int64_t l = 0; l < call_.levels; ++l) level(task / call_.heads, task % call_.heads, l, workers_[worker]);
        });
    }

   private:
    struct Worker {
        SampleRooms<T> rooms;
        Room<T> grad, values, sums;  // values, sums: [pixels of a level + 1, D]; the last row stands for "outside"
    };

    bool samples_wanted() const { return call_.grad_locations || call_.grad_weights; }

    int64_t value_row(int64_t image, int64_t head, int64_t l) const {
        return (image * call_.places + call_.starts[l]) * call_.heads + head;
    }

    void level(int64_t image, int64_t head, int64_t l, const Worker& worker) {
        const int64_t height = call_.shapes[2 * l], width = call_.shapes[2 * l + 1], area = height * width;
        const int64_t channels = call_.channels, step = call_.heads * channels;
        T *values = space_.at(worker.values), *sums = space_.at(worker.sums);
        if (samples_wanted()) {
            const S* from = static_cast<const S*>(call_.value) + value_row(image, head, l) * channels;
            for (int64_t i = 0; i < area; ++i) widen_run(from + i * step, channels, values + i * channels);
            std::fill_n(values + area * channels, channels, T(0));
        }
        if (call_.grad_value) std::fill_n(sums, (area + 1) * channels, T(0));
        set_level(worker.rooms.levels(space_), 0, block_ * call_.points, height, width, 0);
        for (int64_t query = 0; query < call_.queries; query += block_)
            queries(image, head, l, query, std::min(block_, call_.queries - query), worker);
        if (!call_.grad_value) return;
        S* to = static_cast<S*>(call_.grad_value) + value_row(image, head, l) * channels;
        for (int64_t i = 0; i < area; ++i) hand_over(sums + i * channels, to + i * step);
    }

    void hand_over(const T* sums, S* to) const {
        if (tiled_) return narrow_run(sums, call_.channels, to);
        for (int64_t c = 0; c < call_.channels; ++c) narrow(static_cast<T>(widen(to[c])) + sums[c], to[c]);
    }

    void queries(int64_t image, int64_t head, int64_t l, int64_t first, int64_t count, const Worker& worker) {
        const int64_t points = call_.points, channels = call_.channels;
        const AttnSamples<T> samples = worker.rooms.samples(space_);
        const AttnLevels<T> levels = worker.rooms.levels(space_);
        const int64_t row = (image * call_.queries + first) * call_.heads + head;
        const auto place = [&](int64_t i) { return ((row + i * call_.heads) * call_.levels + l) * points; };
        for (int64_t i = 0; i < count; ++i) {
            read(call_.locations, call_.location_dtype, 2 * place(i), 2 * points, samples.location + 2 * i * points);
            read(call_.weights, call_.weight_dtype, place(i), points, samples.attention + i * points);
        }
        const int64_t pixel_bytes = channels * static_cast<int64_t>(sizeof(T));
        const int64_t outside = call_.shapes[2 * l] * call_.shapes[2 * l + 1] * pixel_bytes;
        taps<T>().locate(samples, levels, count * points, pixel_bytes, outside, true);
        for (int64_t i = 0; i < count; ++i) {
            const S* given = static_cast<const S*>(call_.grad_output) + (row + i * call_.heads) * channels;
            const T* grad;
            if constexpr (std::is_same_v<S, T>) {
                grad = given;
            } else {
                widen_run(given, channels, space_.at(worker.grad));
                grad = space_.at(worker.grad);
            }
            if (samples_wanted())
                gradients<T>().dots(space_.at(worker.values), samples, i * points, points, grad, channels);
            if (call_.grad_value)
                gradients<T>().scatter(space_.at(worker.sums), samples, i * points, points, grad, channels);
        }
        if (!samples_wanted()) return;
        taps<T>().combine(samples, levels, count * points, outside);
        for (int64_t i = 0; i < count; ++i) {
            if (call_.grad_locations)
                write(samples.location + 2 * i * points, 2 * points, call_.grad_locations, call_.location_dtype,
                      2 * place(i));
            if (call_.grad_weights)
                write(samples.attention + i * points, points, call_.grad_weights, call_.weight_dtype, place(i));
        }
    }

    const DcnMsDeformAttn& call_;
    const int64_t block_;
    const bool tiled_;
    Workspace space_;
    std::vector<Worker> workers_;
};

template <template <class> class Pass>
int run(const DcnMsDeformAttn& call) {
    return dcn_guard([&] {
        with_type(call.dtype, [&](auto* type) { Pass<std::remove_pointer_t<decltype(type)>>(call).run(); });
    });
}

}  // namespace
}  // namespace dcn

DCN_EXPORT int dcn_ms_deform_attn_forward(const DcnMsDeformAttn* call) { return dcn::run<dcn::Forward>(*call); }

DCN_EXPORT int dcn_ms_deform_attn_backward(const DcnMsDeformAttn* call) { return dcn::run<dcn::Backward>(*call); }
