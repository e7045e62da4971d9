#include <algorithm>
#include <cstddef>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

#include "deform_conv.h"
#include "deform_conv_kernels.h"
#include "integers.h"
#include "parallel.h"
#include "tile_plan.h"

namespace dcn {
namespace {

int64_t element_bytes(int64_t dtype) { return dtype == dtype_f64 ? 8 : dtype == dtype_f32 ? 4 : 2; }

}  // namespace

Geometry::Geometry(const DcnDeformConv& c, int64_t pixels, int64_t width, bool even) : call(c) {
    const int first = c.axes == 3 ? 0 : 1;
    taps = c.kernel[0] * c.kernel[1] * c.kernel[2];
    corners = int64_t{1} << c.axes;
    rows_in = c.size[first];
    rest_in = (first == 0 ? c.size[1] : 1) * c.size[2];
    rows_out = c.out[first];
    rest_out = (first == 0 ? c.out[1] : 1) * c.out[2];
    group_channels = c.channels / c.groups;
    group_outputs = c.outputs / c.groups;
    offset_channels = c.channels / c.offset_groups;
    // Nearly square tiles: samples of neighbours overlap, so a square touches the fewest input pixels.
    column_strips = std::max<int64_t>(1, ceil_div(rest_out, rows_out == 1 ? pixels : width));
    tile_columns = std::max<int64_t>(1, even ? ceil_div(rest_out, column_strips) : std::min(rest_out, width));
    row_strips = std::max<int64_t>(1, ceil_div(rows_out, std::max<int64_t>(1, pixels / tile_columns)));
    tile_rows = std::max<int64_t>(1, ceil_div(rows_out, row_strips));
    row_strips = ceil_div(rows_out, tile_rows);
    column_strips = ceil_div(rest_out, tile_columns);
    room = round_up(tile_rows * tile_columns, 16);
    for (int64_t t = 0; t < taps; ++t) {
        const int64_t at[3] = {t / (c.kernel[1] * c.kernel[2]), t / c.kernel[2] % c.kernel[1], t % c.kernel[2]};
        for (int i = 0; i < c.axes; ++i) shift[i].push_back(static_cast<double>(at[axis(i)] * c.dilation[axis(i)]));
    }
}

Tile Geometry::tile(int64_t index) const {
    const int64_t line = index / column_strips, strip = index % column_strips;
    Tile tile{line / row_strips, line % row_strips * tile_rows, 0, strip * tile_columns, 0};
    tile.rows = std::min(tile_rows, rows_out - tile.row);
    tile.columns = std::min(tile_columns, rest_out - tile.column);
    return tile;
}

int64_t Geometry::tensor_bytes(bool backward) const {
    const int64_t in = call.batch * call.channels * pixels_in(), out = call.batch * call.outputs * pixels_out();
    const int64_t taps_out = call.batch * call.offset_groups * taps * pixels_out();
    const int64_t weights = call.outputs * group_channels * taps;
    const int64_t data = (in + out + weights) * element_bytes(call.dtype) +
                         taps_out * call.axes * element_bytes(call.offset_dtype) +
                         (call.mask ? taps_out * element_bytes(call.mask_dtype) : 0);
    return backward ? 2 * data : data;
}

namespace {

constexpr int64_t least_columns = 5;  // of a piece

struct Cut {
    int64_t rows, columns, parts;
};

std::vector<Piece> pieces(const Geometry& geometry, int64_t first, int64_t tiles, int64_t whole, const Cut& cut,
                          const Range& range) {
    std::vector<Piece> result;
    const int64_t part = ceil_div(ceil_div(range.count, range.unit), cut.parts) * range.unit;
    for (int64_t i = 0; i < tiles; ++i) {
        const Tile tile = geometry.tile(first + i);
        const int64_t rows = i < whole ? tile.rows : cut.rows, columns = i < whole ? tile.columns : cut.columns;
        const int64_t width = i < whole ? range.count : part;
        for (int64_t row = 0; row < tile.rows; row += rows) {
            for (int64_t column = 0; column < tile.columns; column += columns) {
                const Tile one{tile.image, tile.row + row, std::min(rows, tile.rows - row), tile.column + column,
                               std::min(columns, tile.columns - column)};
                for (int64_t at = 0; at < range.count; at += width) {
                    result.push_back({one, at, std::min(width, range.count - at)});
                }
            }
        }
    }
    return result;
}

// Every piece from `first` on in two: by columns, by rows, or else by the range, which samples once more.
std::vector<Piece> halved(const std::vector<Piece>& work, size_t first, const Range& range) {
    std::vector<Piece> result(work.begin(), work.begin() + static_cast<std::ptrdiff_t>(first));
    for (size_t i = first; i < work.size(); ++i) {
        Piece one = work[i], other = work[i];
        if (one.tile.columns >= 2 * least_columns) {
            one.tile.columns /= 2;
            other.tile.column += one.tile.columns;
            other.tile.columns -= one.tile.columns;
        } else if (one.tile.rows > 1) {
            one.tile.rows /= 2;
            other.tile.row += one.tile.rows;
            other.tile.rows -= one.tile.rows;
        } else if (one.count > range.unit) {
            one.count = round_up(one.count / 2, range.unit);
            other.first += one.count;
            other.count -= one.count;
        } else {
            other.count = 0;
        }
        result.push_back(one);
        if (other.count) result.push_back(other);
    }
    return result;
}

// When the last piece is done, each being taken by the thread that is free first.
int64_t time_of(const std::vector<Piece>& work, int64_t threads, const Range& range) {
    std::priority_queue<int64_t, std::vector<int64_t>, std::greater<int64_t>> busy;
    for (int64_t i = 0; i < threads; ++i) busy.push(0);
    int64_t last = 0;
    for (const Piece& piece : work) {
        const int64_t end = busy.top() + range.cost(piece);
        busy.pop();
        busy.push(end);
        last = std::max(last, end);
    }
    return last;
}

}  // namespace

std::vector<Piece> cut_tiles(const Geometry& geometry, int64_t first, int64_t tiles, int64_t threads,
                             const Range& range) {
    constexpr int64_t enough = 20, most_parts = 16;  // 20 tiles for each thread are even as they are
    const Cut none{geometry.tile_rows, geometry.tile_columns, 1};
    std::vector<Piece> best = pieces(geometry, first, tiles, tiles, none, range);
    if (threads <= 1 || tiles >= enough * threads) return best;
    int64_t ideal = 0;
    for (const Piece& piece : best) ideal += range.cost(piece);
    ideal = std::max<int64_t>(1, ideal / threads);
    int64_t least = time_of(best, threads, range);
    // From coarse to fine; small pieces have costs of their own, and a part of the range samples once more.
    std::vector<Cut> cuts;
    const int64_t parts = std::max<int64_t>(1, std::min(most_parts, range.count / range.unit));
    for (Cut cut = none;; cut.rows = (cut.rows + 1) / 2) {
        for (cut.columns = none.columns;; cut.columns = (cut.columns + 1) / 2) {
            for (cut.parts = 1; cut.parts <= parts; cut.parts *= 2) cuts.push_back(cut);
            if (cut.columns < 2 * least_columns) break;
        }
        if (cut.rows == 1) break;
    }
    const auto size = [](const Cut& cut) { return cut.rows * cut.columns * most_parts / cut.parts; };
    std::stable_sort(cuts.begin(), cuts.end(), [&](const Cut& a, const Cut& b) { return size(a) > size(b); });
    const int64_t whole = std::max<int64_t>(0, tiles / threads - 1) * threads;
    for (const Cut& cut : cuts) {
        if (least <= ideal + ideal / 25) break;
        std::vector<Piece> work = pieces(geometry, first, tiles, whole, cut, range);
        const int64_t time = time_of(work, threads, range);
        if (time >= least - least / 50) continue;
        least = time;
        best = std::move(work);
    }
    // Where the pieces do not come out even, those that are left for the last turn become smaller and smaller.
    std::vector<Piece> work = best;
    for (int turn = 0; turn < 5 && least > ideal + ideal / 25; ++turn) {
        const size_t tail = work.size() % static_cast<size_t>(threads);
        work = halved(work, work.size() - (tail ? tail : std::min(work.size(), static_cast<size_t>(threads))), range);
        const int64_t time = time_of(work, threads, range);
        if (time >= least) continue;
        least = time;
        best = work;
    }
    return best;
}

std::vector<ChannelBlock> channel_blocks(const Geometry& geometry, int64_t limit, bool depthwise) {
    std::vector<ChannelBlock> blocks;
    const int64_t channels = geometry.call.channels, per_group = geometry.group_channels;
    if (depthwise) {
        for (int64_t c = 0; c < channels; c += limit) {
            const int64_t n = std::min(limit, channels - c);
            blocks.push_back({c, n, c, n, 1, 0});
        }
    } else if (per_group >= limit) {
        const int64_t parts = ceil_div(per_group, limit);
        const int64_t size = std::min(per_group, round_up(ceil_div(per_group, parts), 16));
        for (int64_t g = 0; g < geometry.call.groups; ++g) {
            for (int64_t c = 0; c < per_group; c += size) {
                const int64_t n = std::min(size, per_group - c);
                blocks.push_back({g * per_group + c, n, g, 1, n, c});
            }
        }
    } else {
        const int64_t step = limit / per_group;
        for (int64_t g = 0; g < geometry.call.groups; g += step) {
            const int64_t n = std::min(step, geometry.call.groups - g);
            blocks.push_back({g * per_group, n * per_group, g, n, per_group, 0});
        }
    }
    return blocks;
}

std::vector<Segment> segments(const Geometry& geometry, const ChannelBlock& block) {
    std::vector<Segment> result;
    const bool depthwise = geometry.group_channels == 1 && geometry.group_outputs == 1;
    const int64_t run = depthwise ? block.channels : block.per_group;  // channels between changes of the group
    for (int64_t c = 0; c < block.channels;) {
        const int64_t q = (block.first + c) / geometry.offset_channels;
        const int64_t group_end = (c / run + 1) * run;
        const int64_t offset_end = (q + 1) * geometry.offset_channels - block.first;
        const int64_t end = std::min({group_end, offset_end, block.channels});
        result.push_back({c, end - c, q, c / run * run * geometry.taps + c % run, run});
        c = end;
    }
    return result;
}

namespace {

// Of the taps [first, end).
template <class T>
void line_range(const Geometry& geometry, const DeformConvKernels<T>& kernels, int64_t line, int64_t first, int64_t end,
                int64_t* low, int64_t* high) {
    const DcnDeformConv& call = geometry.call;
    const Tile tile = geometry.tile(line * geometry.column_strips);
    const int axis = geometry.axis(0);
    std::vector<T> offset(static_cast<size_t>(geometry.rest_out));
    for (int64_t q = 0; q < call.offset_groups; ++q) {
        for (int64_t t = first; t < end; ++t) {
            const int64_t channel = (q * geometry.taps + t) * call.axes;
            for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
                const int64_t from = tile.image * call.offset_step[0] + channel * call.offset_step[1] +
                                     row * geometry.rest_out * call.offset_step[2];
                kernels.read(element_at(call.offset, call.offset_dtype, from), static_cast<int32_t>(call.offset_dtype),
                             call.offset_step[2], geometry.rest_out, offset.data());
                const T location = static_cast<T>(row * call.stride[axis] - call.padding[axis]) +
                                static_cast<T>(geometry.shift[0][static_cast<size_t>(t)]);
                kernels.row_range(offset.data(), geometry.rest_out, location, geometry.rows_in, call.v1 != 0, low, high);
            }
        }
    }
}

}  // namespace

RowRanges row_ranges(const Geometry& geometry) {
    const int64_t lines = geometry.tile_lines(), threads = geometry.call.threads, taps = geometry.taps;
    // Few lines are divided by their taps.
    const int64_t few = 8 * threads, parts = threads > 2 && lines < few ? std::min(taps, ceil_div(few, std::max<int64_t>(1, lines))) : 1;
    const std::vector<int64_t> lowest(static_cast<size_t>(lines * parts), geometry.rows_in);
    RowRanges found{lowest, std::vector<int64_t>(lowest.size())};
    const auto range = [&](int64_t task) {
        const int64_t line = task / parts, first = task % parts * taps / parts, end = (task % parts + 1) * taps / parts;
        int64_t *low = &found.low[static_cast<size_t>(task)], *high = &found.high[static_cast<size_t>(task)];
        if (geometry.call.axes == 1) {
            *low = 0;
            *high = geometry.rows_in;
        } else if (geometry.call.dtype == dtype_f64) {
            line_range<double>(geometry, DCN_FOR_ISA(deform_conv_double)(), line, first, end, low, high);
        } else {
            line_range<float>(geometry, DCN_FOR_ISA(deform_conv_float)(), line, first, end, low, high);
        }
    };
    const auto cost = [&](int64_t) {
        // Eight offsets at once take as long as what is counted of the passes.
        return geometry.call.offset_groups * taps * geometry.tile_rows * geometry.rest_out / (8 * parts);
    };
    dcn_parallel_for(lines * parts, static_cast<int>(threads), range, cost, true);
    const std::vector<int64_t> empty(static_cast<size_t>(lines));
    RowRanges ranges{empty, empty};
    for (int64_t line = 0; line < lines; ++line) {
        const auto at = line * parts, base = line / geometry.row_strips * geometry.rows_in;
        const int64_t low = *std::min_element(found.low.begin() + at, found.low.begin() + at + parts);
        const int64_t high = *std::max_element(found.high.begin() + at, found.high.begin() + at + parts);
        const bool any = low < high;
        ranges.low[static_cast<size_t>(line)] = any ? base + low : std::numeric_limits<int64_t>::max();
        ranges.high[static_cast<size_t>(line)] = any ? base + high : 0;
    }
    for (size_t i = 1; i < ranges.high.size(); ++i) {  // rows enter and leave the window in order
        ranges.high[i] = std::max(ranges.high[i], ranges.high[i - 1]);
    }
    for (size_t i = ranges.low.size(); i-- > 1;) ranges.low[i - 1] = std::min(ranges.low[i], ranges.low[i - 1]);
    return ranges;
}

RowRanges all_rows(const Geometry& geometry) {
    const size_t lines = static_cast<size_t>(geometry.tile_lines());
    return {std::vector<int64_t>(lines, 0), std::vector<int64_t>(lines, geometry.call.batch * geometry.rows_in)};
}

int64_t smallest_window(const RowRanges& ranges) {
    int64_t rows = 1;
    for (size_t i = 0; i < ranges.low.size(); ++i) rows = std::max(rows, ranges.high[i] - ranges.low[i]);
    return rows;
}

RowSlots RowSchedule::slots(const Band& band, int64_t first, int64_t row_pixels) const {
    if (slot.empty()) return {0, std::numeric_limits<int32_t>::max(), 0};
    const int64_t turns = std::max(band.low, first) / capacity;  // of the ring, before the first row that is needed
    return {static_cast<int32_t>((first - turns * capacity) * row_pixels),
            static_cast<int32_t>((turns + 1) * capacity - first), static_cast<int32_t>(capacity * row_pixels)};
}

RowSchedule schedule(const Geometry& geometry, const RowRanges& ranges, int64_t capacity, int64_t lines) {
    RowSchedule plan;
    const int64_t total = geometry.tile_lines(), rows = geometry.call.batch * geometry.rows_in;
    plan.live.assign(static_cast<size_t>(rows), 0);
    int64_t loaded = 0;
    for (int64_t line = 0; line < total;) {
        const int64_t low = std::min(rows, ranges.low[static_cast<size_t>(line)]);
        int64_t end = line + 1;
        while (end < total && end - line < lines && ranges.high[static_cast<size_t>(end)] - low <= capacity) ++end;
        const int64_t high = std::max(loaded, ranges.high[static_cast<size_t>(end - 1)]);
        for (int64_t row = std::max(loaded, low); row < high; ++row) plan.live[static_cast<size_t>(row)] = 1;
        plan.capacity = std::max(plan.capacity, high - low);
        plan.bands.push_back({line, end, high, low});
        loaded = high;
        line = end;
    }
    plan.capacity = std::max<int64_t>(1, plan.capacity);
    for (int64_t row = 0; row < rows; ++row) {
        plan.slot.push_back(static_cast<int32_t>(row % plan.capacity * geometry.rest_in));
    }
    return plan;
}

}  // namespace dcn
