// Multi-scale deformable attention: the loops over images, heads and queries.
//
// Forward: a task is some queries, all heads of each, so that locations, weights and output are read and written in the
// order of memory. Backward: a task is one head, or one level of it, so that no two tasks write to one pixel, and the
// order of every sum is that of the queries, whatever the number of threads. Its pixels are copied together first: at a
// distance of M * D elements they would compete for an eighth of the cache.
//
// Where threads do not share such tasks evenly, the gradients are made one after the other: those of locations and
// weights as the output is, then that of the values in chains of tasks. A chain is a few channels of one level of a head,
// its tasks are some queries each, in their order. The same bits come out.
#include "ms_deform_attn.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "ms_deform_attn_kernels.h"
#include "parallel.h"
#include "status.h"
#include "scalar_types.h"
#include "workspace.h"

namespace dcn {
namespace {

constexpr int64_t block_samples = 256;  // located at a time: 20 KiB of pixels and weights, which stay in the L1 cache
constexpr int64_t task_rows = 512;

// Rows of a task: fewer where 512 would leave some threads without one.
int64_t rows_of_task(const DcnMsDeformAttn& call) {
    const int64_t rows = call.batch * call.queries * call.heads;
    return std::clamp<int64_t>(rows / (16 * call.threads), 4, task_rows);
}

// What a row costs, in multiplications or what takes as long: `passes` over the channels of four corners.
int64_t sample_cost(const DcnMsDeformAttn& call, int64_t passes) { return 20 + passes * 4 * call.channels; }

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

// Elements of a tensor in the type of the sums (locations and attention weights may be float32 beside half precision).
template <class T>
void copy(const void* from, int64_t dtype, int64_t start, int64_t count, T* to) {
    for_type(dtype, [&](auto type) { widen_run(static_cast<const decltype(type)*>(from) + start, count, to); });
}

// The same where they lie, or copied into `buffer`.
template <class T>
const T* read(const void* from, int64_t dtype, int64_t start, int64_t count, T* buffer) {
    if (dtype == (std::is_same_v<T, double> ? dtype_f64 : dtype_f32)) return static_cast<const T*>(from) + start;
    copy(from, dtype, start, count, buffer);
    return buffer;
}

template <class T>
void write(const T* from, int64_t count, void* to, int64_t dtype, int64_t start) {
    for_type(dtype, [&](auto type) {
        using S = decltype(type);
        if constexpr (std::is_same_v<S, double> == std::is_same_v<T, double>) {
            narrow_run(from, count, static_cast<S*>(to) + start);
        }
    });
}

// Room for `count` samples.
template <class T>
struct SampleRooms {
    Room<T> location, attention, weight[4], right, down, dots;
    Room<AttnIndex<T>> index[4];
    Room<int64_t> row[4];

    void plan(Workspace& space, int64_t count) {
        location = space.plan<T>(2 * count);
        for (auto* room : {&attention, &right, &down}) *room = space.plan<T>(count);
        for (auto& room : weight) room = space.plan<T>(count);
        for (auto& room : index) room = space.plan<AttnIndex<T>>(count);
        for (auto& room : row) room = space.plan<int64_t>(count);
        dots = space.plan<T>(4 * count);
    }

    AttnSamples<T> samples(const Workspace& space) const {
        AttnSamples<T> at{};
        for (int k = 0; k < 4; ++k) {
            at.index[k] = space.at(index[k]);
            at.row[k] = space.at(row[k]);
            at.weight[k] = space.at(weight[k]);
        }
        at.right = space.at(right);
        at.down = space.at(down);
        at.dots = space.at(dots);
        return at;
    }
};

// Levels of `count` samples, `period` after `period` of them alike.
template <class T>
struct LevelRooms {
    Room<T> width, height;
    Room<AttnIndex<T>> columns, rows, start;

    void plan(Workspace& space, int64_t count) {
        for (auto* room : {&width, &height}) *room = space.plan<T>(count);
        for (auto* room : {&columns, &rows, &start}) *room = space.plan<AttnIndex<T>>(count);
    }

    AttnLevels<T> levels(const Workspace& space) const {
        return {space.at(width), space.at(height), space.at(columns), space.at(rows), space.at(start)};
    }
};

// Fills the levels of `count` samples: `points` of each of `levels` levels, and again; starts[l] is the first pixel.
template <class T>
void fill_levels(const AttnLevels<T>& to, int64_t count, int64_t levels, int64_t points, const int64_t* shapes,
                 const int64_t* starts) {
    for (int64_t i = 0; i < count; ++i) {
        const int64_t l = i / points % levels;
        to.height[i] = static_cast<T>(shapes[2 * l]);
        to.width[i] = static_cast<T>(shapes[2 * l + 1]);
        to.rows[i] = static_cast<AttnIndex<T>>(shapes[2 * l]);
        to.columns[i] = static_cast<AttnIndex<T>>(shapes[2 * l + 1]);
        to.start[i] = static_cast<AttnIndex<T>>(starts[l]);
    }
}

// Rows of `each` samples that are located together, at least one.
int64_t block_rows(int64_t each, int64_t rows) {
    const int64_t fitting = block_samples / std::max<int64_t>(each, 1);
    return std::max<int64_t>(1, std::min(fitting, rows));
}

template <class T>
int64_t bytes_between(const void* base, const T* to) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(base));
}

// body(image, first row, end, worker) for some rows each, in parallel; `cost` is that of a sample.
template <class F>
void each_run_of_rows(const DcnMsDeformAttn& call, int64_t cost, F&& body) {
    const int64_t rows = call.queries * call.heads, run = rows_of_task(call), runs = ceil_div(rows, run);
    const auto end = [&](int64_t task) { return std::min((task % runs + 1) * run, rows); };
    dcn_parallel_for(
        call.batch * runs, static_cast<int>(call.threads),
        [&](int64_t task, int worker) { body(task / runs, task % runs * run, end(task), worker); },
        [&](int64_t task) { return (end(task) - task % runs * run) * (call.levels * call.points * cost + 4 * call.channels); });
}

// A row is one query of one head; the samples of the rows of an image lie one after the other.
template <class S>
class Forward {
    using T = typename Compute<S>::type;

   public:
    explicit Forward(const DcnMsDeformAttn& call)
        : call_(call),
          rows_(call.queries * call.heads),
          each_(call.levels * call.points),
          block_(block_rows(each_, rows_)),
          pixel_(call.heads * call.channels) {
        const int64_t count = attn_padded(block_ * each_);
        workers_.resize(call.threads);
        for (auto& worker : workers_) worker.plan(space_, count);
        levels_.plan(space_, count);
        const Room<T> sums = space_.plan<T>(call.threads * call.channels);
        const Room<S> outside = space_.plan<S>(pixel_);
        space_.take();
        sums_ = space_.at(sums);
        outside_ = space_.at(outside);
        std::fill_n(outside_, pixel_, S{});
        if (each_) fill_levels(levels_.levels(space_), count, call.levels, call.points, call.shapes, call.starts);
    }

    void run() {
        each_run_of_rows(call_, sample_cost(call_, 1), [&](int64_t image, int64_t first, int64_t end, int worker) {
            for (int64_t row = first; row < end; row += block_)
                block(image, row, std::min(block_, end - row), worker);
        });
    }

   private:
    void block(int64_t image, int64_t first, int64_t count, int worker) {
        const AttnSamples<T> samples = workers_[worker].samples(space_);
        const S* base = static_cast<const S*>(call_.value) + image * call_.pixels * pixel_;
        const int64_t row = image * rows_ + first, channels = call_.channels;
        const T* location = read(call_.locations, call_.location_dtype, 2 * row * each_, 2 * count * each_,
                                 space_.at(workers_[worker].location));
        const T* attention =
            read(call_.weights, call_.weight_dtype, row * each_, count * each_, space_.at(workers_[worker].attention));
        taps<T>().locate(location, attention, samples, levels_.levels(space_), count * each_,
                         pixel_ * static_cast<int64_t>(sizeof(S)), bytes_between(base, outside_), false);
        for (int64_t i = 0; i < count; ++i) {
            const S* head = base + (first + i) % call_.heads * channels;
            S* output = static_cast<S*>(call_.output) + (row + i) * channels;
            if constexpr (std::is_same_v<S, T>) {
                rows<S>().gather(output, head, samples, i * each_, each_, channels);
            } else {
                T* sums = sums_ + worker * channels;
                rows<S>().gather(sums, head, samples, i * each_, each_, channels);
                narrow_run(sums, channels, output);
            }
        }
    }

    const DcnMsDeformAttn& call_;
    const int64_t rows_, each_, block_, pixel_;  // per image; samples of a row; rows of a block; elements of a pixel
    Workspace space_;
    std::vector<SampleRooms<T>> workers_;
    LevelRooms<T> levels_;
    T* sums_ = nullptr;
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
    return next == call.pixels;
}

// A task takes some neighbouring levels of one head. It works on copies of their pixels, [pixels + 1, D], where the last
// row stands for "outside".
template <class S>
class Backward {
    using T = typename Compute<S>::type;

   public:
    explicit Backward(const DcnMsDeformAttn& call)
        : call_(call),
          tiled_(levels_tile(call)),
          own_levels_(tiled_ && small_tasks(call) ? 1 : std::max<int64_t>(call.levels, 1)),
          groups_(ceil_div(call.levels, own_levels_)),
          each_(own_levels_ * call.points),
          block_(block_rows(each_, call.queries)) {
        for (int64_t group = 0; group < groups_; ++group) {
            int64_t pixels = 0;
            for (int64_t l = group * own_levels_; l < (group + 1) * own_levels_; ++l) {
                starts_.push_back(pixels);
                pixels += area(l);
            }
            pixels_.push_back(pixels);
        }
        const int64_t most = (pixels_.empty() ? 0 : *std::max_element(pixels_.begin(), pixels_.end())) + 1;
        workers_.resize(std::max<int64_t>(1, std::min(call.threads, call.batch * call.heads * groups_)));
        for (auto& worker : workers_) {
            worker.samples.plan(space_, attn_padded(block_ * each_));
            worker.levels.plan(space_, attn_padded(block_ * each_));
            worker.grad = space_.plan<T>(call.channels);
            worker.values = space_.plan<T>(samples_wanted() ? most * call.channels : 0);
            worker.sums = space_.plan<T>(call.grad_value ? most * call.channels : 0);
        }
    }

    void run() {
        space_.take();
        if (!tiled_ && call_.grad_value) {
            const int64_t count = call_.batch * call_.pixels * call_.heads * call_.channels;
            std::fill_n(static_cast<S*>(call_.grad_value), count, S{});
        }
        const auto run = [&](int64_t task, int worker) {
            levels(task / groups_ / call_.heads, task / groups_ % call_.heads, task % groups_, workers_[worker]);
        };
        dcn_parallel_for(tasks(), static_cast<int>(call_.threads), run, [&](int64_t task) { return cost(task); });
    }

    // Whether the threads share the tasks evenly, or nothing else can be done.
    bool comes_out_even() const {
        constexpr double most = 1.08;
        if (call_.threads == 1) return true;
        if (!tiled_ || !each_ || !call_.channels || !call_.queries) return true;
        DcnShares shares(static_cast<int>(call_.threads));
        shares.loop(tasks(), [](int64_t) {}, [&](int64_t task) { return cost(task); });
        return shares.over_mean() <= most;
    }

   private:
    struct Worker {
        SampleRooms<T> samples;
        LevelRooms<T> levels;
        Room<T> grad, values, sums;
    };

    // All levels of a head read locations and gradients once; one level at a time shares out better, and its copies are
    // smaller, which counts where there are fewer samples than pixels.
    static bool small_tasks(const DcnMsDeformAttn& call) {
        return call.batch * call.heads < 4 * call.threads || call.queries < call.pixels;
    }

    bool samples_wanted() const { return call_.grad_locations || call_.grad_weights; }
    int64_t tasks() const { return call_.batch * call_.heads * groups_; }

    int64_t cost(int64_t task) const {
        const int64_t passes = (samples_wanted() ? 1 : 0) + (call_.grad_value ? 1 : 0);
        return call_.queries * each_ * sample_cost(call_, passes) + pixels_[task % groups_] * call_.channels * 2 * passes;
    }

    int64_t area(int64_t l) const { return call_.shapes[2 * l] * call_.shapes[2 * l + 1]; }

    // The first element of a level in a tensor like value.
    int64_t level_start(int64_t image, int64_t head, int64_t l) const {
        return ((image * call_.pixels + call_.starts[l]) * call_.heads + head) * call_.channels;
    }

    void levels(int64_t image, int64_t head, int64_t group, const Worker& worker) {
        const int64_t channels = call_.channels, step = call_.heads * channels, first = group * own_levels_;
        T *values = space_.at(worker.values), *sums = space_.at(worker.sums);
        if (samples_wanted()) {
            for (int64_t l = first; l < first + own_levels_; ++l) {
                const S* from = static_cast<const S*>(call_.value) + level_start(image, head, l);
                T* to = values + starts_[l] * channels;
                for (int64_t i = 0; i < area(l); ++i) widen_run(from + i * step, channels, to + i * channels);
            }
            std::fill_n(values + pixels_[group] * channels, channels, T(0));
        }
        if (call_.grad_value) std::fill_n(sums, (pixels_[group] + 1) * channels, T(0));
        if (each_) {
            fill_levels(worker.levels.levels(space_), attn_padded(block_ * each_), own_levels_, call_.points,
                        call_.shapes + 2 * first, &starts_[first]);
        }
        for (int64_t query = 0; query < call_.queries; query += block_)
            queries(image, head, group, query, std::min(block_, call_.queries - query), worker);
        if (!call_.grad_value) return;
        for (int64_t l = first; l < first + own_levels_; ++l) {
            S* to = static_cast<S*>(call_.grad_value) + level_start(image, head, l);
            for (int64_t i = 0; i < area(l); ++i) hand_over(sums + (starts_[l] + i) * channels, to + i * step);
        }
    }

    void hand_over(const T* sums, S* to) const {
        if (tiled_) return narrow_run(sums, call_.channels, to);
        for (int64_t c = 0; c < call_.channels; ++c) narrow(static_cast<T>(widen(to[c])) + sums[c], to[c]);
    }

    void queries(int64_t image, int64_t head, int64_t group, int64_t first, int64_t count, const Worker& worker) {
        const int64_t channels = call_.channels, each = each_;
        const AttnSamples<T> samples = worker.samples.samples(space_);
        T *location = space_.at(worker.samples.location), *attention = space_.at(worker.samples.attention);
        const int64_t row = (image * call_.queries + first) * call_.heads + head;
        // The first sample of a query, in a tensor like the attention weights.
        const auto slot = [&](int64_t i) {
            return ((row + i * call_.heads) * call_.levels + group * own_levels_) * call_.points;
        };
        for (int64_t i = 0; i < count; ++i) {
            copy(call_.locations, call_.location_dtype, 2 * slot(i), 2 * each, location + 2 * i * each);
            copy(call_.weights, call_.weight_dtype, slot(i), each, attention + i * each);
        }
        const int64_t pixel_bytes = channels * static_cast<int64_t>(sizeof(T));
        taps<T>().locate(location, attention, samples, worker.levels.levels(space_), count * each, pixel_bytes,
                         pixels_[group] * pixel_bytes, true);
        for (int64_t i = 0; i < count; ++i) {
            const T* grad = read(call_.grad_output, call_.dtype, (row + i * call_.heads) * channels, channels,
                                 space_.at(worker.grad));
            if (samples_wanted())
                rows<T>().dots(space_.at(worker.values), samples, i * each, each, grad, channels);
            if (call_.grad_value)
                gradients<T>().scatter(space_.at(worker.sums), samples, i * each, each, grad, channels);
        }
        if (!samples_wanted()) return;
        taps<T>().combine(attention, samples, worker.levels.levels(space_), count * each, location, attention);
        for (int64_t i = 0; i < count; ++i) {
            if (call_.grad_locations)
                write(location + 2 * i * each, 2 * each, call_.grad_locations, call_.location_dtype, 2 * slot(i));
            if (call_.grad_weights)
                write(attention + i * each, each, call_.grad_weights, call_.weight_dtype, slot(i));
        }
    }

    const DcnMsDeformAttn& call_;
    const bool tiled_;  // levels that share pixels, or leave some out, are added up one after the other
    const int64_t own_levels_, groups_, each_, block_;  // levels of a task; tasks per head; samples, queries of a block
    std::vector<int64_t> starts_, pixels_;              // per level: its first pixel in the copy; per group: pixels
    Workspace space_;
    std::vector<Worker> workers_;
};

// The gradients one after the other, for levels that tile the values.
template <class S>
class BackwardApart {
    using T = typename Compute<S>::type;

   public:
    explicit BackwardApart(const DcnMsDeformAttn& call)
        : call_(call),
          each_(call.levels * call.points),
          block_(block_rows(each_, call.queries * call.heads)),
          queries_(block_rows(call.points, call.queries)),
          pixel_(call.heads * call.channels),
          elements_(call.batch * call.pixels * pixel_) {
        // Of 16 channels, or fewer where there would be fewer chains than threads.
        while (width_ > 4 && chains() < call.threads) width_ /= 2;
        const int64_t count = attn_padded(std::max(block_ * each_, queries_ * call.points));
        workers_.resize(call.threads);
        for (auto& worker : workers_) {
            worker.samples.plan(space_, count);
            worker.grad = space_.plan<T>(call.channels);
            worker.waste = space_.plan<T>(width_);
            worker.level.plan(space_, attn_padded(queries_ * call.points));
        }
        levels_.plan(space_, attn_padded(block_ * each_));
        const Room<T> sums = space_.plan<T>(std::is_same_v<S, T> || !call.grad_value ? 0 : elements_);
        const Room<S> outside = space_.plan<S>(pixel_);  // read from the first channel of a head on
        space_.take();
        outside_ = space_.at(outside);
        std::fill_n(outside_, pixel_, S{});
        fill_levels(levels_.levels(space_), attn_padded(block_ * each_), call.levels, call.points, call.shapes, call.starts);
        if constexpr (std::is_same_v<S, T>) {
            sums_ = static_cast<T*>(call.grad_value);
        } else {
            sums_ = space_.at(sums);
        }
    }

    void run() {
        if (call_.grad_locations || call_.grad_weights) {
            each_run_of_rows(call_, sample_cost(call_, 1), [&](int64_t image, int64_t first, int64_t end, int worker) {
                for (int64_t row = first; row < end; row += block_)
                    locations(image, row, std::min(block_, end - row), workers_[worker]);
            });
        }
        if (!call_.grad_value) return;
        each_run([&](int64_t first, int64_t count) { std::fill_n(sums_ + first, count, T(0)); });
        values();
        if constexpr (!std::is_same_v<S, T>) {
            S* to = static_cast<S*>(call_.grad_value);
            each_run([&](int64_t first, int64_t count) { narrow_run(sums_ + first, count, to + first); });
        }
    }

   private:
    struct Worker {
        SampleRooms<T> samples;
        LevelRooms<T> level;
        Room<T> grad, waste;
    };

    struct Chain {
        int64_t image, head, level, first, count;  // channels [first, first + count) of the head
    };

    int64_t widths() const { return ceil_div(call_.channels, width_); }
    int64_t chains() const { return call_.batch * call_.heads * call_.levels * widths(); }

    Chain chain(int64_t i) const {
        const int64_t first = i % widths() * width_, of_level = i / widths();
        return {of_level / call_.levels / call_.heads, of_level / call_.levels % call_.heads, of_level % call_.levels,
                first, std::min(width_, call_.channels - first)};
    }

    // body(first element, count) for all elements of the values.
    template <class F>
    void each_run(F&& body) const {
        const int64_t run = std::clamp<int64_t>(elements_ / (16 * call_.threads), 1 << 8, 1 << 14);
        const auto count = [&](int64_t task) { return std::min(run, elements_ - task * run); };
        dcn_parallel_for(ceil_div(elements_, run), static_cast<int>(call_.threads),
                         [&](int64_t task) { body(task * run, count(task)); }, count);
    }

    void values() {
        const int64_t all = chains(), threads = std::min(all, call_.threads);
        const int64_t links = std::clamp<int64_t>(ceil_div(16 * threads, all), 1, ceil_div(call_.queries, queries_));
        const auto first_of = [&](int64_t link) { return link * call_.queries / links; };
        DcnChains order(all, links);
        const auto next = [&](int64_t, int worker) {
            order.next([&](int64_t i, int64_t link) {
                scatter(chain(i), first_of(link), first_of(link + 1), workers_[worker]);
            });
        };
        dcn_parallel_for(all * links, static_cast<int>(threads), next, [&](int64_t task) {
            const int64_t queries = first_of(task / all + 1) - first_of(task / all);
            return queries * call_.points * (30 + 4 * chain(task % all).count);
        });
    }

    // Adds to some channels of a level what the queries [first, end) give.
    void scatter(const Chain& chain, int64_t first, int64_t end, const Worker& worker) {
        const int64_t channel = chain.head * call_.channels + chain.first, points = call_.points;
        T* base = sums_ + (chain.image * call_.pixels + call_.starts[chain.level]) * pixel_ + channel;
        const AttnSamples<T> samples = worker.samples.samples(space_);
        T *location = space_.at(worker.samples.location), *attention = space_.at(worker.samples.attention);
        const AttnLevels<T> level = worker.level.levels(space_);
        const int64_t start = 0;
        fill_levels(level, attn_padded(queries_ * points), 1, points, call_.shapes + 2 * chain.level, &start);
        for (int64_t query = first; query < end; query += queries_) {
            const int64_t count = std::min(queries_, end - query);
            const int64_t row = (chain.image * call_.queries + query) * call_.heads + chain.head;
            for (int64_t i = 0; i < count; ++i) {
                const int64_t slot = ((row + i * call_.heads) * call_.levels + chain.level) * points;
                copy(call_.locations, call_.location_dtype, 2 * slot, 2 * points, location + 2 * i * points);
                copy(call_.weights, call_.weight_dtype, slot, points, attention + i * points);
            }
            taps<T>().locate(location, attention, samples, level, count * points, pixel_ * static_cast<int64_t>(sizeof(T)),
                             bytes_between(base, space_.at(worker.waste)), false);
            for (int64_t i = 0; i < count; ++i) {
                const int64_t at = (row + i * call_.heads) * call_.channels + chain.first;
                const T* grad = read(call_.grad_output, call_.dtype, at, chain.count, space_.at(worker.grad));
                gradients<T>().scatter(base, samples, i * points, points, grad, chain.count);
            }
        }
    }

    // Gradients of the locations and weights of some rows.
    void locations(int64_t image, int64_t first, int64_t count, const Worker& worker) {
        const AttnSamples<T> samples = worker.samples.samples(space_);
        const S* base = static_cast<const S*>(call_.value) + image * call_.pixels * pixel_;
        const int64_t row = image * call_.queries * call_.heads + first, all = count * each_;
        T *by_location = space_.at(worker.samples.location), *by_attention = space_.at(worker.samples.attention);
        const T* location = read(call_.locations, call_.location_dtype, 2 * row * each_, 2 * all, by_location);
        const T* attention = read(call_.weights, call_.weight_dtype, row * each_, all, by_attention);
        taps<T>().locate(location, attention, samples, levels_.levels(space_), all,
                         pixel_ * static_cast<int64_t>(sizeof(S)), bytes_between(base, outside_), true);
        for (int64_t i = 0; i < count; ++i) {
            const T* grad = read(call_.grad_output, call_.dtype, (row + i) * call_.channels, call_.channels,
                                 space_.at(worker.grad));
            rows<S>().dots(base + (first + i) % call_.heads * call_.channels, samples, i * each_, each_, grad, call_.channels);
        }
        taps<T>().combine(attention, samples, levels_.levels(space_), all, by_location, by_attention);
        if (call_.grad_locations) write(by_location, 2 * all, call_.grad_locations, call_.location_dtype, 2 * row * each_);
        if (call_.grad_weights) write(by_attention, all, call_.grad_weights, call_.weight_dtype, row * each_);
    }

    const DcnMsDeformAttn& call_;
    const int64_t each_, block_, queries_, pixel_, elements_;  // samples of a row; rows, queries of a block; elements
    int64_t width_ = 16;                                       // channels of a chain
    Workspace space_;
    std::vector<Worker> workers_;
    LevelRooms<T> levels_;
    T* sums_ = nullptr;  // like the values
    S* outside_ = nullptr;
};

// No more threads than have something to do.
DcnMsDeformAttn with_useful_threads(DcnMsDeformAttn call) {
    constexpr int64_t least = 250'000;  // multiplications of a thread, 20 to 40 us
    const int64_t samples = call.batch * call.queries * call.heads * call.levels * call.points;
    const int64_t values = call.grad_value ? 2 * call.batch * call.pixels * call.heads * call.channels : 0;
    const int64_t work = samples * sample_cost(call, call.grad_output ? 2 : 1) + values;
    call.threads = std::clamp<int64_t>(work / least, 1, call.threads);
    return call;
}

template <class S>
void forward(const DcnMsDeformAttn& call) {
    Forward<S>(call).run();
}

template <class S>
void backward(const DcnMsDeformAttn& call) {
    Backward<S> together(call);
    if (together.comes_out_even()) return together.run();
    BackwardApart<S>(call).run();
}

}  // namespace
}  // namespace dcn

DCN_EXPORT int dcn_ms_deform_attn_forward(const DcnMsDeformAttn* call) {
    return dcn_guard([&] {
        const DcnMsDeformAttn adjusted = dcn::with_useful_threads(*call);
        dcn::for_type(call->dtype, [&](auto type) { dcn::forward<decltype(type)>(adjusted); });
    });
}

DCN_EXPORT int dcn_ms_deform_attn_backward(const DcnMsDeformAttn* call) {
    return dcn_guard([&] {
        const DcnMsDeformAttn adjusted = dcn::with_useful_threads(*call);
        dcn::for_type(call->dtype, [&](auto type) { dcn::backward<decltype(type)>(adjusted); });
    });
}
