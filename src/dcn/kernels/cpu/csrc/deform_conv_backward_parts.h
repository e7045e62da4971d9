// What the backward pass of deformable convolution does to a block of channels, a tile, a row: the parts of which
// deform_conv_backward.cpp makes its tasks.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "corner_lists.h"
#include "deform_conv.h"
#include "gemm.h"
#include "integers.h"
#include "layout.h"
#include "tables.h"
#include "tile_plan.h"

namespace dcn {

template <class S>
class BackwardParts {
   protected:
    using T = typename Compute<S>::type;

    explicit BackwardParts(const DcnDeformConv& call)
        : call_(call),
          g_(geometry(call)),
          depthwise_(depthwise(call)),
          pairs_(multiplies_pairs(call)),
          direct_(sizeof(S) == sizeof(T) && call.input_step[1] == 1),
          kernels_(conv_kernels<T>()),
          gemm_(gemm<T>()),
          pairs_gemm_(pair_products()),
          layout_(layout<S>()) {
        // Blocks of 32 were 5 to 12 % faster, but training 512 channels took 1.30 times the memory of its tensors.
        blocks_ = channel_blocks(g_, 16, depthwise_);
        for (const ChannelBlock& block : blocks_) {
            segments_.push_back(segments(g_, block));
            block_channels_ = std::max(block_channels_, block.channels);
            const int64_t touched = last_offset_group(block) - first_offset_group(block) + 1;
            block_offset_groups_ = std::max(block_offset_groups_, touched);
            packed_block_ = std::max(packed_block_, packed_size(block));
        }
        pitch_ = direct_ ? call.input_step[2] : round_up(block_channels_, 16);
        columns_row_ = depthwise_ ? 0 : round_up(block_channels_ * g_.taps, 16) + 16;
        plane_ = g_.taps * g_.room;
    }

    // bfloat16 is multiplied as such where the processor can, in pairs of outputs and in pairs of pixels.
    static bool multiplies_pairs(const DcnDeformConv& call) {
        return std::is_same_v<S, BFloat> && pair_products().multiply && !depthwise(call) &&
               call.outputs / call.groups % 2 == 0;
    }

    static Geometry geometry(const DcnDeformConv& call) {
        if (!multiplies_pairs(call)) return Geometry(call);
        const int64_t rows = pair_products().rows;
        return Geometry(call, most_pixels / rows * rows);
    }

    struct Round {
        int64_t first, last;  // blocks
    };

    struct Scratch {
        Room<T> columns, column_gradient;  // of a tile, where a task has all of it
        Room<T> dots, run;                 // run: channels of a block, all taps
        TilePlanner<T> planner;
    };

    // Some pixels of a tile: [first, first + count).
    struct Part {
        int64_t tile, first, count;  // the tile in its band
    };

    // The columns of a tile and their gradient: [pixel, tap, channel], rows of `columns_row_`.
    struct Columns {
        T *values, *gradient;
    };

    // Pixels of a tile whose bfloat16 is multiplied as such: lists of corners have room for no more.
    static constexpr int64_t most_pixels = 128;

    // The weight gradient of a depthwise convolution sums up over so many parts of every tile, which are then added.
    static constexpr int64_t weight_parts = 8;

    // `count` such parts of a tile from part `i` on, perhaps empty ones.
    Part weight_part(int64_t first_tile, int64_t tile, int64_t i, int64_t count = 1) const {
        const int64_t pixels = g_.tile(first_tile + tile).pixels(), size = ceil_div(pixels, weight_parts);
        return {tile, i * size, std::clamp<int64_t>(pixels - i * size, 0, count * size)};
    }

    // A run of the rows and columns of the products that are the weight gradient of one convolution group.
    struct WeightRun {
        int64_t group, output, outputs, column, columns;
    };

    const ChannelBlock& block(int64_t i) const { return blocks_[static_cast<size_t>(i)]; }
    int threads() const { return static_cast<int>(call_.threads); }
    bool wants_locations() const { return call_.grad_offset || call_.grad_mask; }
    int64_t first_offset_group(const ChannelBlock& b) const { return b.first / g_.offset_channels; }
    int64_t last_offset_group(const ChannelBlock& b) const { return (b.first + b.channels - 1) / g_.offset_channels; }

    int64_t packed_size(const ChannelBlock& b) const {
        if (depthwise_) return b.channels * g_.taps;
        return b.groups * round_up(b.per_group * g_.taps, gemm_.panel) * g_.group_outputs;
    }

    // Outputs of the convolution groups of a round.
    int64_t first_output(const Round& round) const { return block(round.first).group * g_.group_outputs; }
    int64_t outputs(const Round& round) const {
        const ChannelBlock& end = block(round.last - 1);
        return (end.group + end.groups) * g_.group_outputs - first_output(round);
    }
    int64_t offset_groups(const Round& round) const {
        return last_offset_group(block(round.last - 1)) - first_offset_group(block(round.first)) + 1;
    }

    // Gradients of the offsets and masks of one offset group at a tile: [axes + 1, taps, room].
    int64_t values() const { return (call_.axes + 1) * plane_; }
    int64_t plan_elements() const { return plane_ * (2 * g_.corners + call_.axes + 1); }
    int64_t partial_elements() const { return wants_locations() ? block_offset_groups_ * values() : 0; }
    int64_t scratch_elements() const { return g_.room * 2 * columns_row_ + plane_ * (g_.corners + call_.axes); }
    int64_t gradient_row(const Round& round) const { return round_up(outputs(round), 16) + 16; }

    void reserve() {
        const int64_t total = static_cast<int64_t>(blocks_.size());
        for (int64_t first = 0; first < total; first += round_blocks_) {
            const Round round{first, std::min(total, first + round_blocks_)};
            gradient_row_ = std::max(gradient_row_, gradient_row(round));
            round_offset_groups_ = std::max(round_offset_groups_, offset_groups(round));
        }
        zeros_ = workspace_.plan<T>(round_up(block_channels_, 16));
        const int64_t window = direct_ ? 0 : schedule_.capacity * g_.rest_in * pitch_;
        for (int64_t i = 0; i < round_blocks_; ++i) {
            windows_.push_back(workspace_.plan<T>(window));
            gradient_windows_.push_back(workspace_.plan<T>(call_.grad_input ? window : 0));
        }
        packed_ = workspace_.plan<T>(round_blocks_ * packed_block_);
        partial_ = workspace_.plan<T>(round_blocks_ * band_tiles_ * partial_elements());
        gradient_ = workspace_.plan<T>(band_tiles_ * g_.room * gradient_row_);
        plans_.resize(static_cast<size_t>(band_tiles_ * round_offset_groups_));
        for (PlanRoom<T>& plan : plans_) plan.plan(workspace_, g_, true);
        kept_ = workspace_.plan<T>(kept_slots_ * 2 * g_.room * columns_row_);
        const bool sums_apart = depthwise_ && stripes_apart_ && call_.grad_weight;
        part_sums_ = workspace_.plan<T>(sums_apart ? round_blocks_ * band_tiles_ * weight_parts * packed_block_ : 0);
        corners_.resize(stripes_ ? plans_.size() : 0);
        for (CornerRoom& room : corners_) {
            room.list = workspace_.plan<int32_t>(g_.corners * plane_);
            room.start = workspace_.plan<int32_t>(stripes_ + 1);
        }
        const bool own_sums = sizeof(S) < sizeof(T) && call_.grad_weight;
        weight_sums_ = workspace_.plan<T>(own_sums ? call_.outputs * g_.group_channels * g_.taps : 0);
        const bool half_locations = call_.offset_dtype >= dtype_f16 || call_.mask_dtype >= dtype_f16;
        locations_kept_ = half_locations && wants_locations() && round_blocks_ < total;
        location_sums_ = workspace_.plan<T>(locations_kept_ ? g_.tiles() * call_.offset_groups * values() : 0);
        threads_.resize(static_cast<size_t>(threads()));
        for (Scratch& scratch : threads_) {
            scratch.columns = workspace_.plan<T>(kept_slots_ ? 0 : g_.room * columns_row_);
            scratch.column_gradient = workspace_.plan<T>(kept_slots_ ? 0 : g_.room * columns_row_);
            scratch.run = workspace_.plan<T>(block_channels_ * g_.taps);
            scratch.dots = workspace_.plan<T>(plane_ * g_.corners);
            scratch.planner.plan(workspace_, g_);
        }
        waste_ = workspace_.plan<T>(threads() * round_up(block_channels_, 16));
        workspace_.take();
        std::fill_n(workspace_.at(zeros_), zeros_.count, T(0));
    }

    // Weight sums of one output of a block: [tap, channel] while they grow, at the location of [channel, tap] in the
    // tensor.
    T* weight_sums(int64_t output, const ChannelBlock& b) const {
        T* sums = nullptr;
        if constexpr (sizeof(S) == sizeof(T)) {
            sums = static_cast<T*>(call_.grad_weight);
        } else {
            sums = workspace_.at(weight_sums_);
        }
        return sums + (output * g_.group_channels + b.start_in_group) * g_.taps;
    }

    template <class F>
    void for_each_output(const ChannelBlock& b, F&& body) const {
        const int64_t outputs = depthwise_ ? 1 : b.groups * g_.group_outputs;
        for (int64_t o = 0; o < outputs; ++o) {
            body(b.group * g_.group_outputs + o, depthwise_ ? b.channels : b.per_group);
        }
    }

    void prepare(const Round& round, int64_t i) {
        const ChannelBlock& b = block(i);
        const S* weight = static_cast<const S*>(call_.weight);
        T* to = workspace_.at(packed_) + (i - round.first) * packed_block_;
        if (call_.grad_weight) {
            for_each_output(b, [&](int64_t o, int64_t n) { std::fill_n(weight_sums(o, b), n * g_.taps, T(0)); });
        }
        if (depthwise_) {
            for (int64_t t = 0; t < g_.taps; ++t) {
                kernels_.read(weight + b.first * g_.taps + t, static_cast<int32_t>(call_.dtype), g_.taps, b.channels,
                              to + t * b.channels);
            }
            return;
        }
        const int64_t step = g_.group_channels * g_.taps;
        const int64_t size = round_up(b.per_group * g_.taps, gemm_.panel) * g_.group_outputs;
        for (int64_t group = 0; group < b.groups; ++group) {
            const S* from = weight + (b.group + group) * g_.group_outputs * step + b.start_in_group * g_.taps;
            layout_.pack_columns(from, step, g_.group_outputs, b.per_group, g_.taps, gemm_.panel, to + group * size);
            const int64_t panel = g_.group_outputs * gemm_.panel;
            for (int64_t at = 0; at < size && pairs_; at += panel) pair(to + group * size + at, g_.group_outputs);
        }
    }

    void pair(T* panel, int64_t rows) const {
        if constexpr (std::is_same_v<T, float>) pairs_gemm_.pair(panel, rows);
    }

    // The gradient of the output at a tile, channels innermost. Where bfloat16 is multiplied it lies there twice, as bits:
    // channels innermost, and then, as `pixel_gradient_of`, pixels innermost.
    T* gradient_of(int64_t tile) const { return workspace_.at(gradient_) + tile * g_.room * gradient_row_; }
    const T* gradient_of(const Round& round, const ChannelBlock& b, const Part& part) const {
        return gradient_of(part.tile) + part.first * gradient_row_ + b.group * g_.group_outputs - first_output(round);
    }
    uint16_t* gradient_bits(int64_t tile) const { return reinterpret_cast<uint16_t*>(gradient_of(tile)); }
    uint16_t* pixel_gradient_of(int64_t tile, int64_t output) const {
        return gradient_bits(tile) + g_.room * (gradient_row_ + output);
    }

    T* partial_of(int64_t i, int64_t tile) const {
        return workspace_.at(partial_) + (i * band_tiles_ + tile) * partial_elements();
    }

    size_t plan_index(const Round& round, int64_t tile, int64_t offset_group) const {
        return static_cast<size_t>(tile * round_offset_groups_ + offset_group - first_offset_group(block(round.first)));
    }

    SamplingPlan<T> plan_of(const Round& round, const Part& part, int64_t offset_group) const {
        SamplingPlan<T> plan = plans_[plan_index(round, part.tile, offset_group)].at(workspace_, g_, part.count);
        plan.index += part.first;
        plan.weight += part.first;
        plan.fraction += part.first;
        if (plan.mask) plan.mask += part.first;
        return plan;
    }

    // The gradient of some outputs of a round at tile i of a band, channels innermost; where bfloat16 is multiplied, in the
    // orders that the products need.
    void turn_gradient(const Round& round, int64_t first_tile, int64_t i, int64_t output, int64_t count) {
        const Tile tile = g_.tile(first_tile + i);
        const bool whole = tile.columns == g_.rest_out;
        const int64_t rows = whole ? 1 : tile.rows, run = whole ? tile.pixels() : tile.columns;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t pixel = (tile.row + r) * g_.rest_out + tile.column;
            const S* from = static_cast<const S*>(call_.grad_output) + tile.image * call_.output_step[0] +
                            (first_output(round) + output) * call_.output_step[1] + pixel * call_.output_step[2];
            if (pairs_) {
                if (wants_locations() || call_.grad_input) {
                    layout_.gather_bits(from, call_.output_step[1], call_.output_step[2], count, run,
                                        gradient_bits(i) + r * run * gradient_row_ + output, gradient_row_);
                }
                if (call_.grad_weight) {
                    layout_.gather_bits(from, call_.output_step[2], call_.output_step[1], run, count,
                                        pixel_gradient_of(i, output) + r * run, g_.room);
                }
                continue;
            }
            layout_.gather(from, call_.output_step[1], call_.output_step[2], count, run,
                           gradient_of(i) + r * run * gradient_row_ + output, gradient_row_);
        }
        for (int64_t o = output; o < output + count && pairs_ && call_.grad_weight; ++o) {
            std::fill_n(pixel_gradient_of(i, o) + tile.pixels(), paired_pixels(tile) - tile.pixels(), uint16_t{0});
        }
    }

    // Pixels of the product along the pixels of a tile: whole runs of pairs, zero behind the tile.
    static int64_t paired_pixels(const Tile& tile) { return round_up(tile.pixels(), 16); }

    void plan_tile(const Round& round, const Band& band, int64_t first_tile, int64_t i, int worker) {
        const Tile tile = g_.tile(first_tile + i);
        const RowSlots slots = schedule_.slots(band, tile.image * g_.rows_in, g_.rest_in);
        const int64_t first = first_offset_group(block(round.first));
        for (int64_t q = first; q < first + offset_groups(round); ++q) {
            SamplingPlan<T> plan = plan_of(round, {i, 0, tile.pixels()}, q);
            threads_[static_cast<size_t>(worker)].planner.run(workspace_, g_, kernels_, tile, q, slots, false, plan);
            if (!stripes_) continue;
            const CornerRoom& room = corners_[plan_index(round, i, q)];
            sort_corners(plan, stripes_, workspace_.at(room.list), workspace_.at(room.start));
        }
    }

    // Adds to the input gradient what one stripe gets from a tile of block i.
    void scatter(const Round& round, int64_t i, int64_t first_tile, int64_t k, int64_t stripe, const Columns& columns,
                 int worker) {
        const ChannelBlock& b = block(round.first + i);
        const Tile tile = g_.tile(first_tile + k);
        for (const Segment& segment : segments_[static_cast<size_t>(round.first + i)]) {
            const CornerRoom& room = corners_[plan_index(round, k, segment.offset_group)];
            const int32_t *start = workspace_.at(room.start) + stripe, *list = workspace_.at(room.list) + start[0];
            const Part all{k, 0, tile.pixels()};
            const SamplingPlan<T> plan = plan_of(round, all, segment.offset_group);
            if (depthwise_) {
                const DepthwiseRun<T> run = depthwise_run_of(round, i, first_tile, segment, all, nullptr, worker);
                kernels_.depthwise_scatter(plan, list, start[1] - start[0], run);
            } else {
                kernels_.scatter(plan, list, start[1] - start[0], run_of(b, i, tile.image, segment, columns, worker));
            }
        }
    }

    void load_rows(int64_t index, int64_t i, int64_t from, int64_t to) {
        const ChannelBlock& b = block(index);
        T* window = workspace_.at(windows_[static_cast<size_t>(i)]);
        T* gradient = workspace_.at(gradient_windows_[static_cast<size_t>(i)]);
        for (int64_t row = from; row < to; ++row) {
            if (!schedule_.live[static_cast<size_t>(row)]) continue;
            const int64_t image = row / g_.rows_in, pixel = row % g_.rows_in * g_.rest_in;
            const int64_t at = schedule_.slot[static_cast<size_t>(row)] * pitch_;
            layout_.gather(static_cast<const S*>(call_.input) + image * call_.input_step[0] +
                               b.first * call_.input_step[1] + pixel * call_.input_step[2],
                           call_.input_step[1], call_.input_step[2], b.channels, g_.rest_in, window + at, pitch_);
            if (call_.grad_input) std::fill_n(gradient + at, g_.rest_in * pitch_, T(0));
        }
    }

    void flush_rows(int64_t index, int64_t i, int64_t from, int64_t to) {
        const ChannelBlock& b = block(index);
        const T* gradient = workspace_.at(gradient_windows_[static_cast<size_t>(i)]);
        for (int64_t row = from; row < to; ++row) {
            const bool live = schedule_.live[static_cast<size_t>(row)];
            const int64_t image = row / g_.rows_in, pixel = row % g_.rows_in * g_.rest_in;
            const int64_t at = schedule_.slot[static_cast<size_t>(row)] * pitch_;
            const T* source = live ? gradient + at : workspace_.at(zeros_);
            layout_.scatter(source, live ? pitch_ : 0, b.channels, g_.rest_in,
                            static_cast<S*>(call_.grad_input) + image * call_.input_step[0] +
                                b.first * call_.input_step[1] + pixel * call_.input_step[2],
                            call_.input_step[1], call_.input_step[2], nullptr, false);
        }
    }

    struct Wanted {
        bool input, locations, sums_apart;
    };

    // Gradients of a depthwise convolution; that of its weight is added to `sums`, unless null: of each part of a tile to
    // its own where they are apart.
    void run_depthwise(const Round& round, int64_t i, int64_t first_tile, const Part& part, const Wanted& wanted, T* sums,
                       int worker) {
        const ChannelBlock& b = block(round.first + i);
        const Scratch& scratch = threads_[static_cast<size_t>(worker)];
        T* partial = partial_of(i, part.tile) + part.first;
        for (const Segment& segment : segments_[static_cast<size_t>(round.first + i)]) {
            const SamplingPlan<T> plan = plan_of(round, part, segment.offset_group);
            DepthwiseRun<T> run = depthwise_run_of(round, i, first_tile, segment, part, sums, worker);
            if (!wanted.input) run.gradient = nullptr;
            run.part_step = wanted.sums_apart ? packed_block_ : 0;
            if (wanted.locations) clear_dots(part.count, run.dots = workspace_.at(scratch.dots));
            kernels_.depthwise(plan, run);
            if (wanted.locations) finish_locations(b, plan, segment.offset_group, scratch, partial);
        }
    }

    DepthwiseRun<T> depthwise_run_of(const Round& round, int64_t i, int64_t first_tile, const Segment& segment,
                                     const Part& part, T* sums, int worker) const {
        const ChannelBlock& b = block(round.first + i);
        const Tile tile = g_.tile(first_tile + part.tile);
        const Columns none{workspace_.at(zeros_), workspace_.at(zeros_)};
        const BackwardRun<T> run = run_of(b, i, tile.image, segment, none, worker);
        DepthwiseRun<T> result{};
        result.source = run.source;
        result.gradient = run.gradient;
        result.pitch = run.pitch;
        result.channels = run.channels;
        result.zeros = run.zeros;
        result.waste = run.waste;
        result.above = gradient_of(round, b, part) + segment.channel;
        result.above_row = gradient_row_;
        result.weight = workspace_.at(packed_) + i * packed_block_ + segment.channel;
        result.weight_tap = b.channels;
        result.sums = sums ? sums + segment.channel : nullptr;
        result.part = ceil_div(tile.pixels(), weight_parts);
        return result;
    }

    // Columns, their gradient, and with it the gradients of the locations; with `scatter` that of the input too.
    void run_part(const Round& round, int64_t i, int64_t first_tile, const Part& part, const Columns& to, bool scatter,
                  int worker) {
        const ChannelBlock& b = block(round.first + i);
        const Scratch& scratch = threads_[static_cast<size_t>(worker)];
        const int64_t image = g_.tile(first_tile + part.tile).image;
        if (wants_locations() || call_.grad_input) {
            column_gradient(round, b, part, workspace_.at(packed_) + i * packed_block_, to.gradient);
        }
        int64_t planned = -1;
        SamplingPlan<T> plan{};
        T* partial = partial_of(i, part.tile) + part.first;
        for (const Segment& segment : segments_[static_cast<size_t>(round.first + i)]) {
            if (segment.offset_group != planned) {
                if (planned >= 0) finish_locations(b, plan, planned, scratch, partial);
                planned = segment.offset_group;
                plan = plan_of(round, part, planned);
                if (wants_locations()) clear_dots(part.count, workspace_.at(scratch.dots));
            }
            BackwardRun<T> run = run_of(b, i, image, segment, to, worker);
            if (!scatter) run.gradient = nullptr;
            run.columns = call_.grad_weight ? to.values + segment.column : nullptr;
            run.dots = wants_locations() ? workspace_.at(scratch.dots) : nullptr;
            kernels_.backward(plan, run);
        }
        finish_locations(b, plan, planned, scratch, partial);
        if (pairs_ && call_.grad_weight) round_columns(b, g_.tile(first_tile + part.tile), part, to.values);
    }

    // Columns of two pixels become pairs of bfloat16, in the row of the first. A part begins with an even pixel.
    void round_columns(const ChannelBlock& b, const Tile& tile, const Part& part, T* columns) const {
        const bool last = part.first + part.count == tile.pixels();
        const int64_t rows = last ? paired_pixels(tile) - part.first : part.count, width = b.channels * g_.taps;
        for (int64_t p = part.count; p < rows; ++p) std::fill_n(columns + p * columns_row_, width, T(0));
        if constexpr (std::is_same_v<T, float>) pairs_gemm_.round_pairs(columns, rows, columns_row_, width);
    }

    void clear_dots(int64_t pixels, T* dots) const {
        for (int64_t t = 0; t < g_.taps; ++t) std::fill_n(dots + t * g_.room * g_.corners, pixels * g_.corners, T(0));
    }

    void column_gradient(const Round& round, const ChannelBlock& b, const Part& part, const T* packed, T* to) const {
        const int64_t columns = b.per_group * g_.taps, outputs = g_.group_outputs, panel = gemm_.panel;
        const int64_t size = round_up(columns, panel) * outputs, first = b.group * outputs - first_output(round);
        for (int64_t group = 0; group < b.groups; ++group) {
            const int64_t at = part.first * gradient_row_ + first + group * outputs;
            const T* right = packed + group * size;
            if (pairs_) {
                multiply_pairs(part.count, columns, outputs / 2, gradient_bits(part.tile) + at, gradient_row_, right,
                               outputs * panel, panel, to + group * columns, columns_row_, false);
                continue;
            }
            gemm_.multiply(part.count, columns, outputs, gradient_of(part.tile) + at, gradient_row_, 1, right,
                           outputs * panel, panel, to + group * columns, columns_row_, false);
        }
    }

    // A product of pairs; `a_row` counts single numbers.
    void multiply_pairs(int64_t rows, int64_t columns, int64_t pairs, const uint16_t* a, int64_t a_row, const T* b,
                        int64_t b_panel, int64_t b_row, T* c, int64_t c_row, bool accumulate) const {
        if constexpr (std::is_same_v<T, float>) {
            pairs_gemm_.multiply(rows, columns, pairs, reinterpret_cast<const uint32_t*>(a), a_row / 2,
                                 reinterpret_cast<const uint32_t*>(b), b_panel, b_row, c, c_row, accumulate);
        }
    }

    // Source, gradient and the gradient of the columns of a segment; columns and dots are not wanted yet.
    BackwardRun<T> run_of(const ChannelBlock& b, int64_t i, int64_t image, const Segment& segment,
                          const Columns& columns, int worker) const {
        const int64_t channel = b.first + segment.channel;
        const size_t own = static_cast<size_t>(i);
        BackwardRun<T> run{};
        if constexpr (sizeof(S) == sizeof(T)) {
            const int64_t at = image * call_.input_step[0] + channel;
            run.source = static_cast<const T*>(call_.input) + at;
            run.gradient = call_.grad_input ? static_cast<T*>(call_.grad_input) + at : nullptr;
        }
        if (!direct_) {
            run.source = workspace_.at(windows_[own]) + segment.channel;
            run.gradient = call_.grad_input ? workspace_.at(gradient_windows_[own]) + segment.channel : nullptr;
        }
        run.pitch = pitch_;
        run.channels = segment.channels;
        run.column_gradient = columns.gradient + segment.column;
        run.column_row = columns_row_;
        run.column_tap = segment.column_tap;
        run.zeros = workspace_.at(zeros_);
        run.waste = workspace_.at(waste_) + worker * round_up(block_channels_, 16);
        return run;
    }

    void finish_locations(const ChannelBlock& b, const SamplingPlan<T>& plan, int64_t offset_group,
                          const Scratch& scratch, T* partial) {
        if (!wants_locations()) return;
        const int64_t at = (offset_group - first_offset_group(b)) * values();
        kernels_.finish(plan, workspace_.at(scratch.dots), partial + at);
    }

    // What tile k of a band gives to the weight gradient of a block.
    void weight_gradient(const Round& round, const ChannelBlock& b, int64_t first_tile, int64_t k, const T* columns) {
        const int64_t all = b.per_group * g_.taps;
        for (int64_t group = 0; group < b.groups; ++group) {
            weight_gradient(round, b, {group, 0, g_.group_outputs, 0, all}, first_tile, k, columns);
        }
    }

    void weight_gradient(const Round& round, const ChannelBlock& b, const WeightRun& run, int64_t first_tile, int64_t k,
                         const T* columns) {
        const Tile tile = g_.tile(first_tile + k);
        const int64_t output = (b.group + run.group) * g_.group_outputs + run.output, row = g_.group_channels * g_.taps;
        const T* right = columns + run.group * b.per_group * g_.taps + run.column;
        T* sums = weight_sums(output, b) + run.column;
        if (pairs_) {
            const uint16_t* gradient = pixel_gradient_of(k, output - first_output(round));
            return multiply_pairs(run.outputs, run.columns, paired_pixels(tile) / 2, gradient, g_.room, right, gemm_.panel,
                                  2 * columns_row_, sums, row, true);
        }
        gemm_.multiply(run.outputs, run.columns, tile.pixels(), gradient_of(k) + output - first_output(round), 1,
                       gradient_row_, right, gemm_.panel, columns_row_, sums, row, true);
    }

    // What the parts of the tiles of a band give to the weight gradient of a depthwise block.
    T* part_sums(int64_t i, int64_t tile, int64_t part) const {
        return workspace_.at(part_sums_) + ((i * band_tiles_ + tile) * weight_parts + part) * packed_block_;
    }

    // Adds them up in their order, for one tap.
    void add_weight_parts(const Round& round, int64_t i, int64_t first_tile, int64_t tiles, int64_t tap) {
        const ChannelBlock& b = block(round.first + i);
        T* sums = weight_sums(b.first, b) + tap * b.channels;
        for (int64_t k = 0; k < tiles; ++k) {
            for (int64_t part = 0; part < weight_parts; ++part) {
                if (!weight_part(first_tile, k, part).count) break;
                const T* from = part_sums(i, k, part) + tap * b.channels;
                for (int64_t c = 0; c < b.channels; ++c) sums[c] += from[c];
            }
        }
    }

    void finish_weight(const ChannelBlock& b, int worker) {
        T* run = workspace_.at(threads_[static_cast<size_t>(worker)].run);
        for_each_output(b, [&](int64_t o, int64_t channels) {
            S* to = static_cast<S*>(call_.grad_weight) + (o * g_.group_channels + b.start_in_group) * g_.taps;
            layout_.taps_last(weight_sums(o, b), channels, g_.taps, run, to);
        });
    }

    // Taps [first, end).
    struct Taps {
        int64_t first, end;
    };

    // Adds what the blocks found out about some taps of a tile, in the order of their channels.
    void reduce(const Round& round, int64_t first_tile, int64_t k, const Taps& taps) {
        const Tile tile = g_.tile(first_tile + k);
        const int64_t first = first_offset_group(block(round.first));
        for (int64_t q = first; q < first + offset_groups(round); ++q) {
            T* sum = nullptr;
            for (int64_t i = 0; i < round.last - round.first; ++i) {
                const ChannelBlock& b = block(round.first + i);
                if (q < first_offset_group(b) || q > last_offset_group(b)) continue;
                T* partial = partial_of(i, k) + (q - first_offset_group(b)) * values();
                if (sum) {
                    add(taps, partial, sum);
                } else {
                    sum = partial;
                }
            }
            bool continued = q * g_.offset_channels < block(round.first).first;
            if (locations_kept_) {
                keep(round, first_tile + k, q, taps, continued, sum);
                continued = false;
            }
            write_locations(tile, q, taps, sum, continued);
        }
    }

    // body(first value, count) of some taps, for each axis and the mask.
    template <class F>
    void each_value_run(const Taps& taps, F&& body) const {
        for (int64_t axis = 0; axis <= call_.axes; ++axis) {
            body(axis * plane_ + taps.first * g_.room, (taps.end - taps.first) * g_.room);
        }
    }

    void add(const Taps& taps, const T* from, T* to) const {
        each_value_run(taps, [&](int64_t first, int64_t count) {
            for (int64_t v = first; v < first + count; ++v) to[v] += from[v];
        });
    }

    // Half precision: sums of several rounds grow in float; every round writes what is known so far.
    void keep(const Round& round, int64_t tile, int64_t q, const Taps& taps, bool continued, T* sum) {
        T* kept = workspace_.at(location_sums_) + (tile * call_.offset_groups + q) * values();
        if (continued) add(taps, kept, sum);
        if ((q + 1) * g_.offset_channels > block(round.last - 1).first + block(round.last - 1).channels) {
            each_value_run(taps, [&](int64_t first, int64_t count) { std::copy_n(sum + first, count, kept + first); });
        }
    }

    void write_locations(const Tile& tile, int64_t q, const Taps& taps, const T* values, bool accumulate) {
        for (int64_t t = taps.first; t < taps.end; ++t) {
            for (int64_t r = 0; r < tile.rows; ++r) {
                const int64_t pixel = (tile.row + r) * g_.rest_out + tile.column;
                const T* from = values + t * g_.room + r * tile.columns;
                if (call_.grad_offset) {
                    for (int64_t axis = 0; axis < call_.axes; ++axis) {
                        const int64_t channel = (q * g_.taps + t) * call_.axes + axis;
                        write_run(from + axis * plane_, tile, channel, pixel, call_.grad_offset, call_.offset_dtype,
                                  call_.offset_step, accumulate);
                    }
                }
                if (call_.grad_mask) {
                    write_run(from + call_.axes * plane_, tile, q * g_.taps + t, pixel, call_.grad_mask,
                              call_.mask_dtype, call_.mask_step, accumulate);
                }
            }
        }
    }

    void write_run(const T* from, const Tile& tile, int64_t channel, int64_t pixel, void* tensor, int64_t dtype,
                   const int64_t* step, bool accumulate) {
        const int64_t to = tile.image * step[0] + channel * step[1] + pixel * step[2];
        kernels_.write(from, tile.columns, element_at(tensor, dtype, to), static_cast<int32_t>(dtype), step[2],
                       accumulate);
    }

    const DcnDeformConv& call_;
    const Geometry g_;
    const bool depthwise_, pairs_, direct_;  // direct: input and its gradient have their channels innermost already
    const DeformConvKernels<T>& kernels_;
    const Gemm<T>& gemm_;
    const GemmPairs& pairs_gemm_;
    const Layout<S, T>& layout_;
    std::vector<ChannelBlock> blocks_;
    std::vector<std::vector<Segment>> segments_;
    RowSchedule schedule_;
    int64_t block_channels_ = 0, block_offset_groups_ = 0, packed_block_ = 0, pitch_ = 0, columns_row_ = 0, plane_ = 0;
    int64_t round_blocks_ = 0, band_tiles_ = 0, gradient_row_ = 0, round_offset_groups_ = 0;
    Workspace workspace_;
    bool locations_kept_ = false;
    Room<T> zeros_, packed_, partial_, gradient_, weight_sums_, location_sums_, waste_;
    std::vector<Room<T>> windows_, gradient_windows_;
    std::vector<PlanRoom<T>> plans_;
    std::vector<CornerRoom> corners_;  // beside the plans, where the work is divided finely
    int64_t stripes_ = 0;              // of the corners; 0: there are no lists of them
    bool stripes_apart_ = false;       // a depthwise convolution divided finely
    Room<T> part_sums_;
    int64_t kept_slots_ = 0;           // columns of a tile that are kept; 0: each thread has one
    Room<T> kept_;
    std::vector<Scratch> threads_;
};

}  // namespace dcn
