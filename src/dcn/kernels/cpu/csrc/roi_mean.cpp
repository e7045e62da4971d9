// The averaging RoI poolings (RoIAlign, position-sensitive, deformable), forward and backward. What a bin reads is the
// matter of roi_bins.h.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "integers.h"
#include "parallel.h"
#include "roi_bins.h"
#include "roi_grid.h"
#include "roi_mean.h"
#include "status.h"
#include "tables.h"

namespace dcn {
namespace {

const RoiMeanTable& table() { return DCN_FOR_ISA(roi_mean_table)(); }

template <class T>
const RoiMeanLoops<T>& loops() {
    if constexpr (std::is_same_v<T, float>) {
        return table().f32;
    } else {
        return table().f64;
    }
}

// Not a copy per worker of one: lines point into their owner.
template <class T>
std::vector<std::unique_ptr<Roi<T>>> make_workers(const DcnRoiCall& call, const RoiGrid<T>& grid) {
    std::vector<std::unique_ptr<Roi<T>>> workers;
    for (int64_t i = 0; i < call.threads; ++i) workers.push_back(std::make_unique<Roi<T>>(call, grid));
    return workers;
}

template <class T>
T weighted(const T* plane, const Roi<T>& roi) {
    T sum = 0;
    for (size_t tap = 0; tap < roi.offsets.size(); ++tap) sum += roi.weights[tap] * plane[roi.offsets[tap]];
    return sum;
}

// body(k, p, q) for the bins of the rows [first, end) of them.
template <class F>
void each_bin(const DcnRoiCall& call, int64_t first, int64_t end, F&& body) {
    for (int64_t k = 0; k < call.classes; ++k)
        for (int64_t p = first; p < end; ++p)
            for (int64_t q = 0; q < call.bins_x; ++q) body(k, p, q);
}

// Channels that all bins of a RoI are read for before the next ones follow: 49 bins of them stay in the L1 cache until
// they are turned round into the output. 300 RoIs of 256 channels took 4.2 ms so, 4.9 with all channels at once and 6.3
// with 64.
constexpr int64_t run_channels = 128;

// The taps of all bins of one class of a RoI, one bin after the other.
template <class T>
struct BinTaps {
    std::vector<int64_t> offsets, starts;  // bin i has the taps starts[i] to starts[i + 1]
    std::vector<T> weights, pooled;        // pooled: [bins, run_channels]

    // Of the rows [first, end) of the bins.
    void collect(const DcnRoiCall& call, Roi<T>& roi, int64_t k, int64_t first, int64_t end) {
        offsets.clear();
        weights.clear();
        starts.assign(1, 0);
        for (int64_t p = first; p < end; ++p) {
            for (int64_t q = 0; q < call.bins_x; ++q) {
                roi.bin(k, p, q);
                offsets.insert(offsets.end(), roi.offsets.begin(), roi.offsets.end());
                weights.insert(weights.end(), roi.weights.begin(), roi.weights.end());
                starts.push_back(static_cast<int64_t>(offsets.size()));
            }
        }
        pooled.resize((starts.size() - 1) * run_channels);
    }

    // out[channel * step + bin] of `channels` channels from `data` on.
    void pool(const T* data, int64_t channels, T* out, int64_t step) {
        const int64_t bins = static_cast<int64_t>(starts.size()) - 1;
        for (int64_t i = 0; i < bins; ++i) {
            const int64_t start = starts[i];
            loops<T>().gather(&pooled[i * run_channels], data, offsets.data() + start, weights.data() + start,
                              starts[i + 1] - start, channels);
        }
        layout<T>().scatter(pooled.data(), run_channels, channels, bins, out, step, 1, nullptr, false);
    }
};

// What a RoI costs, in additions to `channels` channels or what takes as long: its samples collapse into lines, of which a
// bin has about as many as it is pixels long.
template <class T>
int64_t roi_cost(const DcnRoiCall& call, const RoiGrid<T>& grid, int64_t r, int64_t channels) {
    constexpr int64_t lines_of_bin = 100;
    const auto lines = [&](int axis) {
        const RoiSpan<T>& span = grid.spans[2 * r + axis];
        const int64_t extent = axis == 0 ? call.height : call.width;
        const T low = std::clamp(span.start, T(0), static_cast<T>(extent));
        const T high = std::clamp(span.start + span.size, low, static_cast<T>(extent));
        const int64_t bins = axis == 0 ? call.bins_y : call.bins_x;
        return static_cast<int64_t>(std::min((high - low) + static_cast<T>(bins), static_cast<T>(2 * bins * span.most)));
    };
    return call.classes * (call.bins_y * call.bins_x * lines_of_bin + lines(0) * lines(1) * std::max<int64_t>(1, channels));
}

// Some rows of the bins of a RoI: [first, end).
struct RoiPiece {
    int64_t roi, first, end, cost;
};

// All RoIs. Where these are few for the threads, the dearest come first and what is left for the end is cut into rows of
// bins.
template <class T>
std::vector<RoiPiece> roi_pieces(const DcnRoiCall& call, const RoiGrid<T>& grid, bool divisible) {
    constexpr int64_t many = 64;  // for a thread, which come out even as they are
    std::vector<RoiPiece> pieces;
    int64_t total = 0;
    for (int64_t r = 0; r < call.rois; ++r) {
        pieces.push_back({r, 0, call.bins_y, 0});
        if (call.threads == 1) continue;
        pieces.back().cost = roi_cost(call, grid, r, call.channels / call.classes);
        total += pieces.back().cost;
    }
    if (call.threads == 1 || call.rois >= many * call.threads) return pieces;
    std::stable_sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.cost > b.cost; });
    if (!divisible) return pieces;
    std::vector<RoiPiece> result;
    int64_t done = 0;
    for (const RoiPiece& piece : pieces) {
        const bool whole = 3 * piece.cost * call.threads <= total && 100 * done <= 65 * total;
        done += piece.cost;
        if (whole) result.push_back(piece);
        for (int64_t p = 0; !whole && p < call.bins_y; ++p) {
            result.push_back({piece.roi, p, p + 1, piece.cost / call.bins_y});
        }
    }
    return result;
}

// False when a RoI names an image that does not exist; nothing is computed then.
template <class T>
bool forward(const DcnRoiCall& call, T* output) {
    const RoiGrid<T> grid(call);
    if (grid.missing) return false;
    const int64_t bins = call.bins_y * call.bins_x, per_class = call.channels / call.classes;
    const T* data = static_cast<const T*>(call.data);
    const auto workers = make_workers<T>(call, grid);
    std::vector<BinTaps<T>> taps(call.threads);
    const std::vector<RoiPiece> pieces = roi_pieces(call, grid, true);
    const auto run = [&](int64_t task, int worker) {
        const RoiPiece& piece = pieces[task];
        Roi<T>& roi = *workers[worker];
        T* out = output + piece.roi * call.channels * bins;
        roi.load(piece.roi);
        if (call.group_y * call.group_x > 1) {
            each_bin(call, piece.first, piece.end, [&](int64_t k, int64_t p, int64_t q) {
                if (per_class == 1) {
                    const T value = roi.read(data + roi.base(k, p, q), k, p, q, false).value;
                    const bool empty = roi.rows->size == 0 || roi.columns->size == 0;
                    out[k * bins + p * call.bins_x + q] = empty ? T(0) : value * (roi.scale * roi.modulation);
                    return;
                }
                roi.bin(k, p, q);
                for (int64_t d = k * per_class; d < (k + 1) * per_class; ++d) {
                    out[d * bins + p * call.bins_x + q] = weighted(data + roi.base(d, p, q), roi);
                }
            });
            return;
        }
        for (int64_t k = 0; k < call.classes; ++k) {
            taps[worker].collect(call, roi, k, piece.first, piece.end);
            const int64_t end = (k + 1) * per_class;
            for (int64_t d = k * per_class; d < end; d += run_channels) {
                taps[worker].pool(data + roi.base(d, 0, 0), std::min(run_channels, end - d),
                                  out + d * bins + piece.first * call.bins_x, bins);
            }
        }
    };
    dcn_parallel_for(static_cast<int64_t>(pieces.size()), static_cast<int>(call.threads), run,
                     [&](int64_t task) { return pieces[task].cost; });
    return true;
}

// Channels of one task of backward_input. Without groups they are multiples of 64, so that which channel meets which
// code, and with it the last digit, does not depend on the number of threads. With groups every channel meets the same
// code, and few tasks are better: each makes the lines of all its RoIs. A step of R-FCN with deformable pooling, 8 x 100
// RoIs, one thread: 52 + 42 ms of it with a task for each channel, 12 + 13 with one for each image.
int64_t channel_chunk(const DcnRoiCall& call) {
    const bool grouped = call.group_y * call.group_x > 1;
    const int64_t parts = std::max<int64_t>(1, call.threads * 2 / std::max<int64_t>(1, call.images));
    if (grouped) return std::max<int64_t>(1, ceil_div(call.channels, parts));
    return std::max<int64_t>(64, round_up(call.channels / parts, 64));
}

// A part of a task of backward_input: some channels of an image, and of what they get only some pixels or, with groups,
// what some bins give.
struct InputPart {
    int64_t image, channel, channel_end;
    int64_t pixel, pixel_end;
    int64_t bin, bin_end;
    int64_t cost;
};

using InputTask = std::vector<InputPart>;

// Additions to an image: with its boxes' costs spread evenly over what lies in it, for runs of `run` pixels.
template <class T>
class ImageCosts {
   public:
    ImageCosts(const DcnRoiCall& call, const RoiGrid<T>& grid, int64_t channels)
        : run_(std::max<int64_t>(1, call.height * call.width / 4096)),
          runs_(ceil_div(call.height * call.width, run_)),
          cost(call.images * runs_),
          entry(call.images * runs_) {
        for (int64_t r = 0; r < call.rois; ++r) {
            const RoiSpan<T>*rows = &grid.spans[2 * r], *columns = rows + 1;
            const auto [top, bottom] = reach(*rows, call.height);
            const auto [left, right] = reach(*columns, call.width);
            if (top >= bottom || left >= right) continue;
            const int64_t each = roi_cost(call, grid, r, channels) / ((bottom - top) * (right - left));
            // A run that begins within a box reads a row of its bins again.
            const int64_t again = call.classes * call.bins_x * (150 + 2 * channels);
            for (int64_t y = top; y < bottom; ++y) {
                for (int64_t x = left; x < right; ++x) at(cost, call, grid.image[r], y, x) += each;
            }
            const int64_t from = grid.image[r] * runs_;
            for (int64_t i = top * call.width / run_ + 1; i < ceil_div(bottom * call.width, run_); ++i) {
                entry[from + i] += again;
            }
        }
    }

    int64_t runs() const { return runs_; }
    int64_t pixel(int64_t run) const { return run * run_; }

   private:
    static std::pair<int64_t, int64_t> reach(const RoiSpan<T>& span, int64_t extent) {
        const T low = std::clamp(span.start, T(0), static_cast<T>(extent));
        const T high = std::clamp(span.start + span.size, low, static_cast<T>(extent - 1));
        if (span.most == 0) return {0, 0};
        return {static_cast<int64_t>(low), std::min(static_cast<int64_t>(high) + 1, extent)};
    }

    int64_t& at(std::vector<int64_t>& of, const DcnRoiCall& call, int64_t image, int64_t y, int64_t x) const {
        return of[image * runs_ + (y * call.width + x) / run_];
    }

    const int64_t run_, runs_;

   public:
    std::vector<int64_t> cost, entry;  // of a run of pixels of an image; of tasks that begin with it
};

// Whole channels of an image.
template <class T>
std::vector<InputTask> channel_tasks(const DcnRoiCall& call, const RoiGrid<T>& grid) {
    const int64_t chunk = channel_chunk(call), bins = call.bins_y * call.bins_x;
    std::vector<int64_t> cost(call.images);
    for (int64_t r = 0; r < call.rois && call.threads > 1; ++r) cost[grid.image[r]] += roi_cost(call, grid, r, chunk / call.classes);
    std::vector<InputTask> tasks;
    for (int64_t image = 0; image < call.images; ++image) {
        for (int64_t c = 0; c < call.channels; c += chunk) {
            tasks.push_back({{image, c, std::min(c + chunk, call.channels), 0, call.height * call.width, 0, bins, cost[image]}});
        }
    }
    return tasks;
}

// One run of pixels for each thread, 64 channels after the other.
template <class T>
std::vector<InputTask> pixel_tasks(const DcnRoiCall& call, const RoiGrid<T>& grid) {
    const int64_t chunk = std::min<int64_t>(64, call.channels), chunks = ceil_div(call.channels, chunk);
    const int64_t bins = call.bins_y * call.bins_x;
    const ImageCosts<T> costs(call, grid, chunk);
    const int64_t of_image = chunks * costs.runs();
    const auto place = [&](int64_t unit) { return unit / of_image * costs.runs() + unit % costs.runs(); };
    const std::vector<int64_t> first = dcn_even_runs(
        call.images * of_image, call.threads, [&](int64_t unit) { return costs.cost[place(unit)]; },
        [&](int64_t unit) { return costs.entry[place(unit)]; });
    std::vector<InputTask> tasks(first.size() - 1);
    for (size_t i = 0; i < tasks.size(); ++i) {
        for (int64_t at = first[i]; at < first[i + 1];) {
            const int64_t chunk_of = at / costs.runs(), end = std::min(first[i + 1], (chunk_of + 1) * costs.runs());
            int64_t cost = costs.entry[place(at)];
            for (int64_t unit = at; unit < end; ++unit) cost += costs.cost[place(unit)];
            const int64_t channel = chunk_of % chunks * chunk, start = chunk_of * costs.runs();
            tasks[i].push_back({chunk_of / chunks, channel, std::min(channel + chunk, call.channels),
                                costs.pixel(at - start), costs.pixel(end - start), 0, bins, cost});
            at = end;
        }
    }
    return tasks;
}

// One run of bins for each of `threads` threads; with as many groups as bins, each bin gives to planes of its own.
template <class T>
std::vector<InputTask> bin_tasks(const DcnRoiCall& call, const RoiGrid<T>& grid, int64_t threads) {
    const int64_t bins = call.bins_y * call.bins_x, all = call.images * bins * call.channels;
    std::vector<int64_t> cost(call.images);
    for (int64_t r = 0; r < call.rois; ++r) cost[grid.image[r]] += roi_cost(call, grid, r, 1) / (bins * call.classes) + 1;
    const std::vector<int64_t> first = dcn_even_runs(
        all, threads, [&](int64_t unit) { return cost[unit / call.channels / bins]; }, [](int64_t) { return 0; });
    std::vector<InputTask> tasks(first.size() - 1);
    for (size_t i = 0; i < tasks.size(); ++i) {
        for (int64_t at = first[i]; at < first[i + 1];) {
            const int64_t bin = at / call.channels % bins, image = at / call.channels / bins, channel = at % call.channels;
            const int64_t left = first[i + 1] - at;
            const bool whole = channel == 0 && left >= call.channels;
            const int64_t count = whole ? std::min(left / call.channels, bins - bin) : 1;
            const int64_t end = whole ? call.channels : std::min(call.channels, channel + left);
            const int64_t units = count * (end - channel);
            tasks[i].push_back({image, channel, end, 0, call.height * call.width, bin, bin + count, units * cost[image]});
            at += units;
        }
    }
    return tasks;
}

int64_t cost_of(const InputTask& task) {
    int64_t total = 0;
    for (const InputPart& part : task) total += part.cost;
    return total;
}

// How backward_input is cut for `threads` threads, which may become fewer.
template <class T>
std::vector<InputTask> input_tasks(const DcnRoiCall& call, const RoiGrid<T>& grid, int64_t& threads) {
    constexpr double most = 1.08;
    constexpr int64_t least = 10;  // bins of a channel for a thread, so that they come out even
    std::vector<InputTask> whole = channel_tasks(call, grid);
    if (threads <= 2 || !call.rois) return whole;
    DcnShares shares(static_cast<int>(threads));
    shares.loop(static_cast<int64_t>(whole.size()), [](int64_t) {}, [&](int64_t task) { return cost_of(whole[task]); });
    if (shares.over_mean() <= most) return whole;
    if (call.group_y * call.group_x == 1) return pixel_tasks(call, grid);
    if (call.group_y != call.bins_y || call.group_x != call.bins_x) return whole;
    threads = std::clamp<int64_t>(call.images * call.bins_y * call.bins_x * call.channels / least, 1, threads);
    return bin_tasks(call, grid, threads);
}

// Each task owns some channels and pixels of one image and takes the RoIs in their order: no two threads ever add to one
// element, and the order of the sum does not depend on their number.
template <class T>
class InputGradient {
   public:
    InputGradient(const DcnRoiCall& call, const RoiGrid<T>& grid, const T* grad_output, T* grad_data)
        : call_(call), grid_(grid), grad_output_(grad_output), grad_data_(grad_data), bins_(call.bins_y * call.bins_x),
          grouped_(call.group_y * call.group_x > 1) {}

    void add(const InputPart& part, Roi<T>& roi, std::vector<T>& by_bin) const {
        roi.limit(part.pixel, part.pixel_end);
        for (int64_t r = 0; r < call_.rois; ++r) {
            if (grid_.image[r] != part.image || far(r, part)) continue;
            roi.load(r);
            const auto [first, end] = rows(part, roi);
            if (first < end) of_roi(part, r, first, end, roi, by_bin);
        }
    }

   private:
    bool limited(const InputPart& part) const { return part.pixel_end - part.pixel < call_.height * call_.width; }

    // Whether a RoI whose bins do not move reads none of the pixels, without looking closely.
    bool far(int64_t r, const InputPart& part) const {
        if (call_.offset || !limited(part)) return false;
        const RoiSpan<T>& span = grid_.spans[2 * r];
        const T top = static_cast<T>(part.pixel / call_.width), bottom = static_cast<T>((part.pixel_end - 1) / call_.width);
        const T last = static_cast<T>(call_.height - 1);
        const T low = std::clamp(span.start - 2, T(0), last), high = std::clamp(span.start + span.size + 2, T(0), last);
        return high < top || low > bottom;
    }

    // Rows of bins that matter.
    std::pair<int64_t, int64_t> rows(const InputPart& part, Roi<T>& roi) const {
        if (grouped_) return {part.bin / call_.bins_x, ceil_div(part.bin_end, call_.bins_x)};
        int64_t first = 0, end = call_.bins_y;
        if (call_.offset || !limited(part)) return {first, end};
        while (first < end && !roi.reaches(first)) ++first;
        while (first < end && !roi.reaches(end - 1)) --end;
        return {first, end};
    }

    void of_roi(const InputPart& part, int64_t r, int64_t first_row, int64_t end_row, Roi<T>& roi,
                std::vector<T>& by_bin) const {
        const int64_t per_class = call_.channels / call_.classes, start = first_row * call_.bins_x;
        const int64_t begin = part.channel, end = part.channel_end, count = end - begin;
        const T* grad = grad_output_ + r * call_.channels * bins_;
        if (!grouped_) {
            by_bin.resize(bins_ * count);
            layout<T>().gather(grad + begin * bins_ + start, bins_, 1, count, (end_row - first_row) * call_.bins_x,
                               by_bin.data(), count);
        }
        each_bin(call_, first_row, end_row, [&](int64_t k, int64_t p, int64_t q) {
            const int64_t first = std::max(begin, k * per_class), last = std::min(end, (k + 1) * per_class);
            const int64_t location = p * call_.bins_x + q;
            if (first >= last || (grouped_ && (location < part.bin || location >= part.bin_end))) return;
            if (grouped_ && per_class == 1) {
                roi.spread(grad_data_ + roi.base(k, p, q), k, p, q, grad[k * bins_ + location]);
                return;
            }
            if (!roi.bin(k, p, q)) return;
            const int64_t taps = static_cast<int64_t>(roi.offsets.size());
            if (!grouped_) {
                loops<T>().scatter(grad_data_ + roi.base(first, p, q), roi.offsets.data(), roi.weights.data(), taps,
                                   by_bin.data() + (location - start) * count + first - begin, last - first);
                return;
            }
            for (int64_t d = first; d < last; ++d) {
                T* plane = grad_data_ + roi.base(d, p, q);
                for (int64_t tap = 0; tap < taps; ++tap)
                    plane[roi.offsets[tap]] += roi.weights[tap] * grad[d * bins_ + location];
            }
        });
    }

    const DcnRoiCall& call_;
    const RoiGrid<T>& grid_;
    const T* const grad_output_;
    T* const grad_data_;
    const int64_t bins_;
    const bool grouped_;
};

template <class T>
void backward_input(const DcnRoiCall& call, const T* grad_output, T* grad_data) {
    const RoiGrid<T> grid(call);
    const auto workers = make_workers<T>(call, grid);
    int64_t threads = call.threads;
    const std::vector<InputTask> tasks = input_tasks(call, grid, threads);
    const InputGradient<T> gradient(call, grid, grad_output, grad_data);
    std::vector<std::vector<T>> turned(call.threads);
    const auto run = [&](int64_t task, int worker) {
        for (const InputPart& part : tasks[task]) gradient.add(part, *workers[worker], turned[worker]);
    };
    dcn_parallel_for(static_cast<int64_t>(tasks.size()), static_cast<int>(threads), run,
                     [&](int64_t task) { return cost_of(tasks[task]); });
}

// gains[tap] = sum over the bin's channels of gradient * value.
template <class T>
void gains(const DcnRoiCall& call, const Roi<T>& roi, const T* data, const T* grad, const T* by_bin, int64_t k,
           int64_t p, int64_t q, std::vector<T>& result) {
    const int64_t bins = call.bins_y * call.bins_x, per_class = call.channels / call.classes;
    const int64_t taps = static_cast<int64_t>(roi.offsets.size()), first = k * per_class, location = p * call.bins_x + q;
    result.assign(taps, 0);
    if (by_bin) {
        loops<T>().dots(result.data(), data + roi.base(first, p, q), roi.offsets.data(), taps,
                        by_bin + location * call.channels + first, per_class);
        return;
    }
    for (int64_t d = first; d < first + per_class; ++d) {
        const T* plane = data + roi.base(d, p, q);
        for (int64_t tap = 0; tap < taps; ++tap) result[tap] += plane[roi.offsets[tap]] * grad[d * bins + location];
    }
}

// Gradients of the offset and of the mask [R, P, Q], both zeroed by the caller; either may be null.
template <class T>
void backward_locations(const DcnRoiCall& call, const T* grad_output, T* grad_offset, T* grad_mask) {
    const RoiGrid<T> grid(call);
    const int64_t bins = call.bins_y * call.bins_x, per_class = call.channels / call.classes;
    const T* data = static_cast<const T*>(call.data);
    const bool grouped = call.group_y * call.group_x > 1;
    const auto workers = make_workers<T>(call, grid);
    std::vector<std::vector<T>> turned(call.threads, std::vector<T>(grouped ? 0 : bins * call.channels));
    std::vector<std::vector<T>> results(call.threads);
    bool divisible = true;  // bins that share an offset add to it in their order
    for (int64_t p = 1; p < call.bins_y && grad_offset && call.rois; ++p) {
        divisible = divisible && grid.offset_index(0, 0, 0, p, 0) != grid.offset_index(0, 0, 0, p - 1, 0);
    }
    const std::vector<RoiPiece> pieces = roi_pieces(call, grid, divisible);
    const auto run = [&](int64_t task, int worker) {
        const auto [r, first, end, cost] = pieces[task];
        const int64_t start = first * call.bins_x, count = (end - first) * call.bins_x;
        Roi<T>& roi = *workers[worker];
        const T* grad = grad_output + r * call.channels * bins;
        T* by_bin = grouped ? nullptr : turned[worker].data();
        if (by_bin) {
            layout<T>().gather(grad + start, bins, 1, call.channels, count, by_bin + start * call.channels, call.channels);
        }
        roi.load(r);
        each_bin(call, first, end, [&](int64_t k, int64_t p, int64_t q) {
            const int64_t location = p * call.bins_x + q;
            T value = 0, right = 0, down = 0;
            if (grouped && per_class == 1) {
                const auto reading = roi.read(data + roi.base(k, p, q), k, p, q, true);
                const T own = grad[k * bins + location];
                value = reading.value * own, right = reading.right * own, down = reading.down * own;
            } else {
                if (roi.bin(k, p, q)) gains(call, roi, data, grad, by_bin, k, p, q, results[worker]);
                const T* gain = results[worker].data();
                for (int64_t i = 0; i < roi.rows->size; ++i) {
                    for (int64_t j = 0; j < roi.columns->size; ++j, ++gain) {
                        value += *gain * roi.rows->weight[i] * roi.columns->weight[j];
                        right += *gain * roi.rows->weight[i] * roi.columns->slope[j];
                        down += *gain * roi.rows->slope[i] * roi.columns->weight[j];
                    }
                }
            }
            const T factor = roi.scale * roi.modulation;
            if (grad_offset) grad_offset[grid.offset_index(r, 0, k, p, q)] += down * factor * grid.unit(r, 0);
            if (grad_offset) grad_offset[grid.offset_index(r, 1, k, p, q)] += right * factor * grid.unit(r, 1);
            if (grad_mask) grad_mask[r * bins + location] += value * roi.scale;
        });
    };
    dcn_parallel_for(static_cast<int64_t>(pieces.size()), static_cast<int>(call.threads), run,
                     [&](int64_t task) { return pieces[task].cost; });
}


}  // namespace
}  // namespace dcn

DCN_EXPORT int dcn_roi_mean_forward(const DcnRoiCall* call, void* output) {
    return dcn_guard_images([&] {
        return call->is_double ? dcn::forward(*call, static_cast<double*>(output))
                               : dcn::forward(*call, static_cast<float*>(output));
    });
}

// grad_data has the layout of `data` and is zero on entry.
DCN_EXPORT int dcn_roi_mean_backward_input(const DcnRoiCall* call, const void* grad_output, void* grad_data) {
    return dcn_guard([&] {
        if (call->is_double) {
            dcn::backward_input(*call, static_cast<const double*>(grad_output), static_cast<double*>(grad_data));
        } else {
            dcn::backward_input(*call, static_cast<const float*>(grad_output), static_cast<float*>(grad_data));
        }
    });
}

DCN_EXPORT int dcn_roi_mean_backward_locations(const DcnRoiCall* call, const void* grad_output, void* grad_offset,
                                               void* grad_mask) {
    return dcn_guard([&] {
        if (call->is_double) {
            dcn::backward_locations(*call, static_cast<const double*>(grad_output), static_cast<double*>(grad_offset),
                                    static_cast<double*>(grad_mask));
        } else {
            dcn::backward_locations(*call, static_cast<const float*>(grad_output), static_cast<float*>(grad_offset),
                                    static_cast<float*>(grad_mask));
        }
    });
}
