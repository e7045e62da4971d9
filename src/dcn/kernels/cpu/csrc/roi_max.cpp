// RoI max pooling, forward and backward.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "integers.h"
#include "parallel.h"
#include "roi_grid.h"
#include "roi_max.h"
#include "status.h"
#include "tables.h"

// Mirrors _CALL in kernels/cpu/roi_max.py; every field has 8 bytes.
struct DcnRoiMaxCall {
    int64_t images, channels, height, width, rois, bins_y, bins_x, is_double, boxes_double, threads;
    double spatial_scale;
    const void* data;   // [N, C, H, W]
    const void* boxes;  // [R, 5]: image, x1, y1, x2, y2, double or float
};

namespace dcn {
namespace {

template <class T>
const RoiMaxLoops<T>& loops() {
    if constexpr (std::is_same_v<T, double>) {
        return DCN_FOR_ISA(roi_max_double)();
    } else {
        return DCN_FOR_ISA(roi_max_float)();
    }
}

// The cells of every bin: kernels/reference/roi_max.py, operation by operation. Corners are rounded after scaling, the
// last one belongs to the RoI, the least size is one cell; a RoI with NaN or infinity has no cells.
class Cells {
public:
    explicit Cells(const DcnRoiMaxCall& call)
        : image(call.rois),
          bins_y_(call.bins_y),
          bins_x_(call.bins_x),
          rows_(call.rois * call.bins_y * 2),
          spans_(rows_ + call.rois * call.bins_x * 2) {
        if (call.boxes_double) {
            fill<double>(call);
        } else {
            fill<float>(call);
        }
    }

    RoiCells at(int64_t r, int64_t bin) const {
        const int64_t* rows = &spans_[(r * bins_y_ + bin / bins_x_) * 2];
        const int64_t* columns = &spans_[rows_ + (r * bins_x_ + bin % bins_x_) * 2];
        return {rows[0], rows[1], columns[0], columns[1]};
    }

    std::vector<int64_t> image;  // [R], always a valid index
    bool missing = false;        // a RoI names an image that does not exist (NaN is none)

private:
    template <class T>
    void fill(const DcnRoiMaxCall& call) {
        const T scale = static_cast<T>(call.spatial_scale);
        for (int64_t r = 0; r < call.rois; ++r) {
            const T* box = static_cast<const T*>(call.boxes) + r * 5;
            const bool there = box[0] >= 0 && box[0] < static_cast<T>(call.images);
            missing = missing || !there;
            T low[2], high[2];
            bool valid = there;
            for (int axis = 0; axis < 2; ++axis) {
                low[axis] = round_half_away(box[2 - axis] * scale);
                high[axis] = round_half_away(box[4 - axis] * scale);
                valid = valid && std::isfinite(low[axis] - high[axis]);
            }
            image[r] = valid ? static_cast<int64_t>(box[0]) : 0;
            const T tall = valid ? std::max(high[0] - low[0] + 1, T(1)) : T(0);
            const T wide = valid ? std::max(high[1] - low[1] + 1, T(1)) : T(0);
            span(call.bins_y, valid ? low[0] : T(0), tall, call.height, &spans_[r * call.bins_y * 2]);
            span(call.bins_x, valid ? low[1] : T(0), wide, call.width, &spans_[rows_ + r * call.bins_x * 2]);
        }
    }

    template <class T>
    static void span(int64_t bins, T low, T size, int64_t extent, int64_t* out) {
        const T bin = size / static_cast<T>(bins), last = static_cast<T>(extent);
        for (int64_t i = 0; i < bins; ++i) {
            const T begin = std::floor(static_cast<T>(i) * bin) + low;
            const T end = std::ceil(static_cast<T>(i + 1) * bin) + low;
            out[2 * i] = static_cast<int64_t>(std::min(std::max(begin, T(0)), last));
            out[2 * i + 1] = static_cast<int64_t>(std::min(std::max(end, T(0)), last));
        }
    }

    int64_t bins_y_, bins_x_, rows_;
    std::vector<int64_t> spans_;  // first cell and the one after the last: [R, P, 2], then [R, Q, 2]
};

// Rows of an image: [first, end), end 0 when none.
struct Rows {
    int64_t first, end;
    bool meets(const RoiCells& bin) const { return bin.top < end && bin.bottom > first; }
};

// What a task does: up to 16 channels of an image and some of its rows. Forward it has the bins that begin in these,
// backward the gradient of these.
struct MaxPart {
    int64_t image, block;
    Rows rows;
    int64_t cost;
};

using MaxTask = std::vector<MaxPart>;

// Rows of an image that are shared out, one at least: bins have an owner where a map is empty, too.
int64_t shared_rows(const DcnRoiMaxCall& call) { return std::max<int64_t>(1, call.height); }

// The row that a bin begins in; bins without cells count, too.
int64_t owner(const DcnRoiMaxCall& call, const RoiCells& bin) { return std::min(bin.top, shared_rows(call) - 1); }

// Rows of bins of a RoI, from which on and up to which they matter to a part.
Rows bins_of(const DcnRoiMaxCall& call, const Cells& cells, const MaxPart& part, int64_t r, bool forward) {
    Rows rows{call.bins_y, 0};
    for (int64_t p = 0; p < call.bins_y; ++p) {
        const RoiCells bin = cells.at(r, p * call.bins_x);
        const int64_t row = owner(call, bin);
        const bool counts = forward ? row >= part.rows.first && row < part.rows.end : part.rows.meets(bin);
        if (counts) rows = {std::min(rows.first, p), p + 1};
    }
    return rows;
}

// Rows that those bins read.
Rows rows_read(const DcnRoiMaxCall& call, const Cells& cells, const MaxPart& part, bool forward) {
    Rows rows{call.height, 0};
    for (int64_t r = 0; r < call.rois; ++r) {
        if (cells.image[r] != part.image) continue;
        const Rows bins = bins_of(call, cells, part, r, forward);
        for (int64_t p = bins.first; p < bins.end; ++p) {
            const RoiCells bin = cells.at(r, p * call.bins_x);
            if (bin.top < bin.bottom) rows = {std::min(rows.first, bin.top), std::max(rows.end, bin.bottom)};
        }
    }
    return rows;
}

// Up to 16 channels of one image with the channels innermost: with 256 channels and 300 RoIs reading planes bin by bin
// took 91 ms, this 9.
template <class T>
class Block {
public:
    Block(const DcnRoiMaxCall& call, const Cells& cells, const MaxPart& part, bool forward)
        : call_(call),
          cells_(cells),
          part_(part),
          image_(part.image),
          first_(part.block * max_channels),
          channels_(std::min(max_channels, call.channels - first_)),
          rows_(rows_read(call, cells, part, forward)),
          data_(rows_.end > 0 ? (rows_.end - rows_.first) * call.width * max_channels : 0),
          bins_(call.bins_y * call.bins_x * max_channels) {
        if (!data_.empty()) {
            const T* from = static_cast<const T*>(call.data) + start(rows_.first);
            layout<T>().gather(from, plane(), 1, channels_, pixels(), data_.data(), max_channels);
        }
    }

    static int64_t blocks(const DcnRoiMaxCall& call) { return ceil_div(call.channels, max_channels); }

    void forward(T* output) {
        const int64_t bins = call_.bins_y * call_.bins_x;
        Place location[max_channels];
        for (int64_t r = 0; r < call_.rois; ++r) {
            if (cells_.image[r] != image_) continue;
            const Rows rows = bins_of(call_, cells_, part_, r, true);
            const int64_t begin = rows.first * call_.bins_x, count = rows.end * call_.bins_x - begin;
            if (count <= 0) continue;
            for (int64_t bin = 0; bin < count; ++bin) {
                T* value = &bins_[bin * max_channels];
                if (!largest(r, begin + bin, value, location)) std::fill_n(value, max_channels, T(0));
            }
            T* to = output + (r * call_.channels + first_) * bins + begin;
            layout<T>().scatter(bins_.data(), max_channels, channels_, count, to, bins, 1, nullptr, false);
        }
    }

    // The RoIs in their order: the sums do not depend on the threads.
    void backward(const T* grad_output, T* grad_data) {
        if (data_.empty()) return;
        const int64_t bins = call_.bins_y * call_.bins_x;
        const Rows own{std::max(rows_.first, part_.rows.first), std::min(rows_.end, part_.rows.end)};
        const int64_t low = (own.first - rows_.first) * call_.width, high = (own.end - rows_.first) * call_.width;
        const bool whole = high - low == pixels();
        std::vector<T> grad((high - low) * max_channels);
        T value[max_channels];
        Place location[max_channels];
        for (int64_t r = 0; r < call_.rois; ++r) {
            if (cells_.image[r] != image_) continue;
            const Rows rows = bins_of(call_, cells_, part_, r, false);
            const int64_t begin = rows.first * call_.bins_x, count = rows.end * call_.bins_x - begin;
            if (count <= 0) continue;
            const T* from = grad_output + (r * call_.channels + first_) * bins + begin;
            layout<T>().gather(from, bins, 1, channels_, count, bins_.data(), max_channels);
            for (int64_t bin = 0; bin < count; ++bin) {
                if (!largest(r, begin + bin, value, location)) continue;
                for (int64_t c = 0; whole && c < channels_; ++c) {
                    grad[location[c] * max_channels + c] += bins_[bin * max_channels + c];
                }
                for (int64_t c = 0; !whole && c < channels_; ++c) {
                    if (location[c] < low || location[c] >= high) continue;
                    grad[(location[c] - low) * max_channels + c] += bins_[bin * max_channels + c];
                }
            }
        }
        layout<T>().scatter(grad.data(), max_channels, channels_, high - low, grad_data + start(own.first), plane(), 1,
                            nullptr, false);
    }

private:
    using Place = typename RoiMaxLoops<T>::Place;

    int64_t plane() const { return call_.height * call_.width; }
    int64_t pixels() const { return (rows_.end - rows_.first) * call_.width; }
    int64_t start(int64_t row) const { return (image_ * call_.channels + first_) * plane() + row * call_.width; }

    // False for a bin without cells.
    bool largest(int64_t r, int64_t bin, T* value, Place* location) const {
        RoiCells bounds = cells_.at(r, bin);
        if (bounds.top >= bounds.bottom || bounds.left >= bounds.right) return false;
        bounds.top -= rows_.first;
        bounds.bottom -= rows_.first;
        loops<T>().largest(data_.data(), call_.width, bounds, value, location);
        return true;
    }

    const DcnRoiMaxCall& call_;
    const Cells& cells_;
    const MaxPart& part_;
    const int64_t image_, first_, channels_;
    const Rows rows_;
    std::vector<T> data_, bins_;
};

// What the rows of the images cost 16 channels: cells, and the copy of a row.
std::vector<int64_t> row_costs(const DcnRoiMaxCall& call, const Cells& cells, bool forward) {
    std::vector<int64_t> cost(call.images * shared_rows(call), 2 * call.width);
    for (int64_t r = 0; r < call.rois; ++r) {
        int64_t width = 0;
        for (int64_t q = 0; q < call.bins_x; ++q) width += std::max<int64_t>(0, cells.at(r, q).right - cells.at(r, q).left);
        int64_t* of_image = cost.data() + cells.image[r] * shared_rows(call);
        for (int64_t p = 0; p < call.bins_y; ++p) {
            const RoiCells bin = cells.at(r, p * call.bins_x);
            of_image[owner(call, bin)] += 20 * call.bins_x;  // the bins themselves
            for (int64_t row = bin.top; row < bin.bottom; ++row) of_image[forward ? owner(call, bin) : row] += width;
        }
    }
    return cost;
}

// Whole blocks of channels or, where these do not come out even, a run of rows of one block after the other for each thread.
std::vector<MaxTask> max_tasks(const DcnRoiMaxCall& call, const Cells& cells, int64_t blocks, bool forward) {
    constexpr double most = 1.08;
    const int64_t height = shared_rows(call);
    const std::vector<int64_t> cost = row_costs(call, cells, forward);
    const auto cost_of = [&](int64_t image, const Rows& rows) {
        const auto of_image = cost.begin() + image * height;
        return std::accumulate(of_image + rows.first, of_image + rows.end, int64_t{0});
    };
    std::vector<MaxTask> tasks;
    for (int64_t i = 0; i < call.images * blocks; ++i) {
        const Rows all{0, height};
        tasks.push_back({{i / blocks, i % blocks, all, cost_of(i / blocks, all)}});
    }
    if (call.threads <= 2 || tasks.empty()) return tasks;
    DcnShares shares(static_cast<int>(call.threads));
    shares.loop(static_cast<int64_t>(tasks.size()), [](int64_t) {}, [&](int64_t task) { return tasks[task][0].cost; });
    if (shares.over_mean() <= most) return tasks;
    const int64_t rows = call.images * blocks * height;
    const std::vector<int64_t> first = dcn_even_runs(
        rows, call.threads,
        [&](int64_t row) { return cost[row / height / blocks * height + row % height]; },
        [](int64_t) { return 0; });
    tasks.assign(first.size() - 1, {});
    for (size_t i = 0; i < tasks.size(); ++i) {
        for (int64_t at = first[i]; at < first[i + 1];) {
            const int64_t block = at / height, end = std::min(first[i + 1], (block + 1) * height);
            const Rows own{at - block * height, end - block * height};
            tasks[i].push_back({block / blocks, block % blocks, own, cost_of(block / blocks, own)});
            at = end;
        }
    }
    return tasks;
}

// body(block of a part) for all tasks, in parallel.
template <class T, class F>
void each_block(const DcnRoiMaxCall& call, const Cells& cells, bool forward, F&& body) {
    if (call.height * call.width > std::numeric_limits<typename RoiMaxLoops<T>::Place>::max()) {
        throw std::length_error("a map of 2^31 locations or more");
    }
    const std::vector<MaxTask> tasks = max_tasks(call, cells, Block<T>::blocks(call), forward);
    const auto run = [&](int64_t task) {
        for (const MaxPart& part : tasks[task]) {
            Block<T> block(call, cells, part, forward);
            body(block);
        }
    };
    dcn_parallel_for(static_cast<int64_t>(tasks.size()), static_cast<int>(call.threads), run, [&](int64_t task) {
        int64_t total = 0;
        for (const MaxPart& part : tasks[task]) total += part.cost;
        return total;
    });
}

// False when a RoI names an image that does not exist; nothing is computed then.
template <class T>
bool forward(const DcnRoiMaxCall& call, T* output) {
    const Cells cells(call);
    if (cells.missing) return false;
    each_block<T>(call, cells, true, [&](Block<T>& block) { block.forward(output); });
    return true;
}

template <class T>
void backward(const DcnRoiMaxCall& call, const T* grad_output, T* grad_data) {
    const Cells cells(call);
    each_block<T>(call, cells, false, [&](Block<T>& block) { block.backward(grad_output, grad_data); });
}

}  // namespace
}  // namespace dcn

DCN_EXPORT int dcn_roi_max_forward(const DcnRoiMaxCall* call, void* output) {
    return dcn_guard_images([&] {
        return call->is_double ? dcn::forward(*call, static_cast<double*>(output))
                               : dcn::forward(*call, static_cast<float*>(output));
    });
}

// grad_data [N, C, H, W] is zero on entry.
DCN_EXPORT int dcn_roi_max_backward(const DcnRoiMaxCall* call, const void* grad_output, void* grad_data) {
    return dcn_guard([&] {
        if (call->is_double) {
            dcn::backward(*call, static_cast<const double*>(grad_output), static_cast<double*>(grad_data));
        } else {
            dcn::backward(*call, static_cast<const float*>(grad_output), static_cast<float*>(grad_data));
        }
    });
}
