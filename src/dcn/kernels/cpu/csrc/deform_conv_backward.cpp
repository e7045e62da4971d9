// Backward pass. A block of 16 channels owns its part of the gradients of input and weight: one task works on a
// block at a time and writes nothing that belongs to another, so no sum depends on the number of threads. The output
// is walked in bands of a few lines of tiles. For each band
//   1. the transposed output gradient and the sampling plans of its tiles are made once, for all channels;
//   2. every block multiplies (gradient of the columns), reads the corners once for columns, dot products and the
//      scatter into the input gradient, and multiplies again (gradient of the weight);
//   3. the offset and mask gradients of the blocks are added in the order of the channels.
// Input and input gradient are held in windows of rows with channels innermost. When memory asks for it the blocks are
// worked off in several rounds.
#include <algorithm>
#include <vector>

#include "deform_conv.h"
#include "deform_conv_pass.h"
#include "gemm.h"
#include "integers.h"
#include "layout.h"
#include "tables.h"
#include "tile_plan.h"

namespace dcn {
namespace {

constexpr double budget_share = 0.13;
constexpr int64_t budget_floor = 3 << 20;
constexpr int64_t band_pixels = 1500;
constexpr int64_t budget_threads = 2;  // whose scratch counts: the rounds must not depend on the number of threads
constexpr int64_t least_blocks = 4;  // of a round: work for as many threads, whatever the memory

template <class S>
class Backward {
    using T = typename Compute<S>::type;

   public:
    explicit Backward(const DcnDeformConv& call)
        : call_(call),
          g_(call),
          depthwise_(g_.group_channels == 1 && g_.group_outputs == 1),
          direct_(sizeof(S) == sizeof(T) && call.input_step[1] == 1),
          kernels_(conv_kernels<T>()),
          gemm_(gemm<T>()),
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
        columns_row_ = round_up(block_channels_ * g_.taps, 16) + 16;
        plane_ = g_.taps * g_.room;
    }

    void choose() {
        const RowRanges ranges = direct_ ? RowRanges{} : row_ranges(g_);
        const int64_t total = static_cast<int64_t>(blocks_.size()), bytes = static_cast<int64_t>(sizeof(T));
        const int64_t tensors = g_.tensor_bytes(true) * bytes / static_cast<int64_t>(sizeof(S));
        const int64_t share = static_cast<int64_t>(budget_share * tensors);
        const int64_t budget = std::max(budget_floor, share) / bytes;
        const int64_t line_pixels = g_.tile_rows * g_.rest_out;
        const int64_t least = direct_ ? 0 : smallest_window(ranges);
        int64_t lines = std::max<int64_t>(1, band_pixels / line_pixels), window = 0;
        round_blocks_ = total;
        for (;;) {
            const Round round{0, std::min(round_blocks_, total)};
            const int64_t tiles = lines * g_.column_strips;
            const int64_t shared = tiles * (offset_groups(round) * plan_elements() + g_.room * gradient_row(round));
            const int64_t own = packed_block_ + tiles * partial_elements();
            const int64_t left = budget - shared - budget_threads * scratch_elements() - round_blocks_ * own;
            window = direct_ ? 1 : left / (2 * round_blocks_ * pitch_ * g_.rest_in);
            if (left > 0 && (direct_ || window >= least + g_.tile_rows)) break;
            if (lines > 1 && 3 * shared > budget) {
                lines = (lines + 1) / 2;
            } else if (round_blocks_ <= least_blocks) {
                break;
            } else {
                round_blocks_ = std::max(least_blocks, (round_blocks_ + 1) / 2);
            }
        }
        if (direct_) {
            for (int64_t line = 0; line < g_.tile_lines(); line += lines) {
                schedule_.bands.push_back({line, std::min(line + lines, g_.tile_lines()), 0, 0});
            }
        } else {
            schedule_ = schedule(g_, ranges, std::max(window, least + g_.tile_rows), lines);
        }
        for (const Band& band : schedule_.bands) {
            band_tiles_ = std::max(band_tiles_, (band.last - band.first) * g_.column_strips);
        }
    }

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
        const bool own_sums = sizeof(S) < sizeof(T) && call_.grad_weight;
        weight_sums_ = workspace_.plan<T>(own_sums ? call_.outputs * g_.group_channels * g_.taps : 0);
        const bool half_locations = call_.offset_dtype >= dtype_f16 || call_.mask_dtype >= dtype_f16;
        locations_kept_ = half_locations && wants_locations() && round_blocks_ < total;
        location_sums_ = workspace_.plan<T>(locations_kept_ ? g_.tiles() * call_.offset_groups * values() : 0);
        threads_.resize(static_cast<size_t>(threads()));
        for (Scratch& scratch : threads_) {
            scratch.columns = workspace_.plan<T>(g_.room * columns_row_);
            scratch.column_gradient = workspace_.plan<T>(g_.room * columns_row_);
            scratch.dots = workspace_.plan<T>(plane_ * g_.corners);
            scratch.planner.plan(workspace_, g_);
        }
        waste_ = workspace_.plan<T>(threads() * round_up(block_channels_, 16));
        workspace_.take();
        std::fill_n(workspace_.at(zeros_), zeros_.count, T(0));
    }

    template <class Team>
    void run_loops(Team& team) {
        if (call_.grad_input && direct_) clear_input(team);
        const int64_t count = static_cast<int64_t>(blocks_.size());
        for (int64_t first = 0; first < count; first += round_blocks_) {
            run_round(team, {first, std::min(count, first + round_blocks_)});
        }
    }

   private:
    struct Round {
        int64_t first, last;  // blocks
    };

    struct Scratch {
        Room<T> columns, column_gradient, dots;
        TilePlanner<T> planner;
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

    // Gradients that lie as the tensor does are added to in place.
    template <class Team>
    void clear_input(Team& team) {
        constexpr int64_t part = 1 << 16;
        const int64_t count = call_.batch * call_.channels * g_.pixels_in();
        S* to = static_cast<S*>(call_.grad_input);
        team.loop(ceil_div(count, part), [&](int64_t i) { std::fill_n(to + i * part, std::min(part, count - i * part), S{}); },
                  [&](int64_t i) { return std::min(part, count - i * part); });
    }

    // Gradients of the offsets and masks of one offset group at a tile: [axes + 1, taps, room].
    int64_t values() const { return (call_.axes + 1) * plane_; }
    int64_t plan_elements() const { return plane_ * (2 * g_.corners + call_.axes + 1); }
    int64_t partial_elements() const { return wants_locations() ? block_offset_groups_ * values() : 0; }
    int64_t scratch_elements() const { return g_.room * 2 * columns_row_ + plane_ * (g_.corners + call_.axes); }
    int64_t gradient_row(const Round& round) const { return round_up(outputs(round), 16) + 16; }

    template <class Team>
    void run_round(Team& team, const Round& round) {
        team.loop(round.last - round.first, [&](int64_t i) { prepare(round, round.first + i); });
        int64_t loaded = 0;
        for (size_t b = 0; b < schedule_.bands.size(); ++b) {
            const Band& band = schedule_.bands[b];
            const int64_t tile = band.first * g_.column_strips, tiles = (band.last - band.first) * g_.column_strips;
            team.loop(tiles, [&](int64_t i, int worker) { prepare_tile(round, band, tile, i, worker); });
            const int64_t flush_to = b + 1 < schedule_.bands.size() ? schedule_.bands[b + 1].low
                                                                    : call_.batch * g_.rows_in;
            team.loop(round.last - round.first, [&](int64_t i, int worker) {
                if (!direct_) load_rows(round.first + i, i, loaded, band.load_end);
                for (int64_t k = 0; k < tiles; ++k) run_tile(round, i, tile, k, worker);
                if (!direct_ && call_.grad_input) flush_rows(round.first + i, i, b == 0 ? 0 : band.low, flush_to);
            });
            if (wants_locations()) {
                team.loop(tiles, [&](int64_t i) { reduce(round, tile, i); });
            }
            loaded = std::max(loaded, band.load_end);
        }
        if (call_.grad_weight) {
            team.loop(round.last - round.first, [&](int64_t i, int worker) {
                finish_weight(block(round.first + i), worker);
            });
        }
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
        }
    }

    T* gradient_of(int64_t i) const { return workspace_.at(gradient_) + i * g_.room * gradient_row_; }

    SamplingPlan<T> plan_of(const Round& round, int64_t i, int64_t offset_group, int64_t pixels) const {
        const int64_t at = i * round_offset_groups_ + offset_group - first_offset_group(block(round.first));
        return plans_[static_cast<size_t>(at)].at(workspace_, g_, pixels);
    }

    void prepare_tile(const Round& round, const Band& band, int64_t first_tile, int64_t i, int worker) {
        const Tile tile = g_.tile(first_tile + i);
        const bool whole = tile.columns == g_.rest_out;
        const int64_t rows = whole ? 1 : tile.rows, run = whole ? tile.pixels() : tile.columns;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t pixel = (tile.row + r) * g_.rest_out + tile.column;
            const S* from = static_cast<const S*>(call_.grad_output) + tile.image * call_.output_step[0] +
                            first_output(round) * call_.output_step[1] + pixel * call_.output_step[2];
            layout_.gather(from, call_.output_step[1], call_.output_step[2], outputs(round), run,
                           gradient_of(i) + r * run * gradient_row_, gradient_row_);
        }
        const RowSlots slots = schedule_.slots(band, tile.image * g_.rows_in, g_.rest_in);
        const int64_t first = first_offset_group(block(round.first));
        for (int64_t q = first; q < first + offset_groups(round); ++q) {
            SamplingPlan<T> plan = plan_of(round, i, q, tile.pixels());
            threads_[static_cast<size_t>(worker)].planner.run(workspace_, g_, kernels_, tile, q, slots, false, plan);
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

    void run_tile(const Round& round, int64_t i, int64_t first_tile, int64_t k, int worker) {
        const ChannelBlock& b = block(round.first + i);
        const Scratch& scratch = threads_[static_cast<size_t>(worker)];
        const Tile tile = g_.tile(first_tile + k);
        const T* gradient = gradient_of(k) + b.group * g_.group_outputs - first_output(round);
        if (wants_locations() || call_.grad_input) {
            column_gradient(b, gradient, workspace_.at(packed_) + i * packed_block_, tile.pixels(), scratch);
        }
        int64_t planned = -1;
        SamplingPlan<T> plan{};
        T* partial = workspace_.at(partial_) + (i * band_tiles_ + k) * partial_elements();
        for (const Segment& segment : segments_[static_cast<size_t>(round.first + i)]) {
            if (segment.offset_group != planned) {
                if (planned >= 0) finish_locations(b, plan, planned, scratch, partial);
                planned = segment.offset_group;
                plan = plan_of(round, k, planned, tile.pixels());
                if (wants_locations()) std::fill_n(workspace_.at(scratch.dots), plane_ * g_.corners, T(0));
            }
            sample(b, i, tile, segment, plan, scratch, worker);
        }
        finish_locations(b, plan, planned, scratch, partial);
        if (call_.grad_weight) weight_gradient(b, gradient, tile.pixels(), scratch);
    }

    void column_gradient(const ChannelBlock& b, const T* gradient, const T* packed, int64_t pixels,
                         const Scratch& scratch) {
        T* to = workspace_.at(scratch.column_gradient);
        if (depthwise_) {
            kernels_.depthwise_columns(pixels, g_.taps, b.channels, gradient, gradient_row_, packed, b.channels, to,
                                       columns_row_, b.channels);
            return;
        }
        const int64_t columns = b.per_group * g_.taps;
        const int64_t size = round_up(columns, gemm_.panel) * g_.group_outputs;
        for (int64_t group = 0; group < b.groups; ++group) {
            gemm_.multiply(pixels, columns, g_.group_outputs, gradient + group * g_.group_outputs, gradient_row_, 1,
                           packed + group * size, g_.group_outputs * gemm_.panel, gemm_.panel, to + group * columns,
                           columns_row_, false);
        }
    }

    void sample(const ChannelBlock& b, int64_t i, const Tile& tile, const Segment& segment, const SamplingPlan<T>& plan,
                const Scratch& scratch, int worker) {
        const int64_t channel = b.first + segment.channel;
        const size_t own = static_cast<size_t>(i);
        BackwardRun<T> run{};
        if constexpr (sizeof(S) == sizeof(T)) {
            const int64_t at = tile.image * call_.input_step[0] + channel;
            run.source = static_cast<const T*>(call_.input) + at;
            run.gradient = call_.grad_input ? static_cast<T*>(call_.grad_input) + at : nullptr;
        }
        if (!direct_) {
            run.source = workspace_.at(windows_[own]) + segment.channel;
            run.gradient = call_.grad_input ? workspace_.at(gradient_windows_[own]) + segment.channel : nullptr;
        }
        run.pitch = pitch_;
        run.channels = segment.channels;
        run.column_gradient = workspace_.at(scratch.column_gradient) + segment.column;
        run.columns = call_.grad_weight ? workspace_.at(scratch.columns) + segment.column : nullptr;
        run.column_row = columns_row_;
        run.column_tap = segment.column_tap;
        run.dots = wants_locations() ? workspace_.at(scratch.dots) : nullptr;
        run.zeros = workspace_.at(zeros_);
        run.waste = workspace_.at(waste_) + worker * round_up(block_channels_, 16);
        kernels_.backward(plan, run);
    }

    void finish_locations(const ChannelBlock& b, const SamplingPlan<T>& plan, int64_t offset_group, const Scratch& scratch,
                       T* partial) {
        if (!wants_locations()) return;
        const int64_t at = (offset_group - first_offset_group(b)) * values();
        kernels_.finish(plan, workspace_.at(scratch.dots), partial + at);
    }

    void weight_gradient(const ChannelBlock& b, const T* gradient, int64_t pixels, const Scratch& scratch) {
        const T* columns = workspace_.at(scratch.columns);
        if (depthwise_) {
            kernels_.depthwise_weight(pixels, g_.taps, b.channels, gradient, gradient_row_, columns, columns_row_,
                                      b.channels, weight_sums(b.first, b), b.channels);
            return;
        }
        const int64_t run = b.per_group * g_.taps;
        for (int64_t group = 0; group < b.groups; ++group) {
            gemm_.multiply(g_.group_outputs, run, pixels, gradient + group * g_.group_outputs, 1, gradient_row_,
                           columns + group * run, gemm_.panel, columns_row_,
                           weight_sums((b.group + group) * g_.group_outputs, b), g_.group_channels * g_.taps, true);
        }
    }

    void finish_weight(const ChannelBlock& b, int worker) {
        T* run = workspace_.at(threads_[static_cast<size_t>(worker)].columns);
        for_each_output(b, [&](int64_t o, int64_t channels) {
            S* to = static_cast<S*>(call_.grad_weight) + (o * g_.group_channels + b.start_in_group) * g_.taps;
            layout_.taps_last(weight_sums(o, b), channels, g_.taps, run, to);
        });
    }

    // Adds what the blocks found out about a tile, in the order of their channels.
    void reduce(const Round& round, int64_t first_tile, int64_t k) {
        const Tile tile = g_.tile(first_tile + k);
        const int64_t first = first_offset_group(block(round.first));
        for (int64_t q = first; q < first + offset_groups(round); ++q) {
            T* sum = nullptr;
            for (int64_t i = 0; i < round.last - round.first; ++i) {
                const ChannelBlock& b = block(round.first + i);
                if (q < first_offset_group(b) || q > last_offset_group(b)) continue;
                T* partial = workspace_.at(partial_) + (i * band_tiles_ + k) * partial_elements() +
                             (q - first_offset_group(b)) * values();
                if (sum) {
                    add(partial, sum);
                } else {
                    sum = partial;
                }
            }
            bool continued = q * g_.offset_channels < block(round.first).first;
            if (locations_kept_) {
                keep(round, first_tile + k, q, continued, sum);
                continued = false;
            }
            write_locations(tile, q, sum, continued);
        }
    }

    void add(const T* from, T* to) const {
        for (int64_t v = 0; v < values(); ++v) to[v] += from[v];
    }

    // Half precision: sums of several rounds grow in float; every round writes what is known so far.
    void keep(const Round& round, int64_t tile, int64_t q, bool continued, T* sum) {
        T* kept = workspace_.at(location_sums_) + (tile * call_.offset_groups + q) * values();
        if (continued) add(kept, sum);
        if ((q + 1) * g_.offset_channels > block(round.last - 1).first + block(round.last - 1).channels) {
            std::copy_n(sum, values(), kept);
        }
    }

    void write_locations(const Tile& tile, int64_t q, const T* values, bool accumulate) {
        for (int64_t t = 0; t < g_.taps; ++t) {
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
    const bool depthwise_, direct_;  // direct: input and its gradient have their channels innermost already
    const DeformConvKernels<T>& kernels_;
    const Gemm<T>& gemm_;
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
    std::vector<Scratch> threads_;
};

void clear(void* tensor, int64_t dtype, int64_t count) {
    if (!tensor) return;
    for_type(dtype, [&](auto type) { std::fill_n(static_cast<decltype(type)*>(tensor), count, decltype(type){}); });
}

// Of a call that has no products.
void clear_gradients(const DcnDeformConv& call) {
    const Geometry g(call);
    const int64_t locations = call.batch * call.offset_groups * g.taps * g.pixels_out();
    clear(call.grad_input, call.dtype, call.batch * call.channels * g.pixels_in());
    clear(call.grad_offset, call.offset_dtype, locations * call.axes);
    clear(call.grad_mask, call.mask_dtype, locations);
    clear(call.grad_weight, call.dtype, call.outputs * g.group_channels * g.taps);
}

}  // namespace

void deform_conv_backward(const DcnDeformConv& call) {
    const bool empty = call.batch * call.out[0] * call.out[1] * call.out[2] * call.outputs * call.channels == 0;
    empty ? clear_gradients(call) : run_pass<Backward>(call);
}

}  // namespace dcn
