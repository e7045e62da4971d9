// Forward pass. The channels are processed in passes (as many as the memory budget asks for, usually one or a few),
// the image in bands of output rows. A pass brings the input rows that a band touches into a window with channels
// innermost; then every tile of the band is sampled into columns that fit the L2 cache and multiplied with the packed
// weights.
#include <algorithm>
#include <type_traits>
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

// Workspace allowed, as a part of the tensors of the call; the goal is 20 % including what the process keeps.
constexpr double budget_share = 0.15;
constexpr int64_t budget_floor = 3 << 19;
// The scratch of this many threads counts against the budget, whatever their number: the passes decide in which order
// sums are rounded, and results must not depend on the threads.
constexpr int64_t budget_threads = 2;
// Most pixels of a tile; for bfloat16 rounded down to whole strips of rows of the product. Samples that are multiplied as
// bfloat16 are read again for every 32 outputs: from 128 outputs on smaller tiles of them are 4 to 9 % faster. With fewer
// outputs the product is short beside the wait for the start of every row of offsets and outputs: tiles of one row, which
// sample more pixels of the input, are 6 % faster than squares.
constexpr int64_t usual_tile = 112, pairs_tile = 64, many_outputs = 128;

template <class S>
class Forward {
    using T = typename Compute<S>::type;

   public:
    explicit Forward(const DcnDeformConv& call)
        : call_(call),
          g_(geometry(call)),
          kernels_(conv_kernels<T>()),
          gemm_(gemm<T>()),
          pairs_gemm_(pair_products()),
          layout_(layout<S>()),
          sums_layout_(layout<T>()) {
        // Depth of the product of one block: about 576, 9 taps of 64 channels.
        const int64_t limit = std::min<int64_t>(512, std::max<int64_t>(16, 640 / g_.taps / 16 * 16));
        blocks_ = channel_blocks(g_, limit, false);
        for (const ChannelBlock& block : blocks_) segments_.push_back(segments(g_, block));
        group_pitch_ = round_up(g_.group_outputs, gemm_.lanes);
        // bfloat16 samples are multiplied as such where the processor can, in pairs along the depth of the product.
        pairs_ = std::is_same_v<S, BFloat> && pairs_gemm_.multiply && kernels_.sample_pairs;
        for (const ChannelBlock& block : blocks_) pairs_ = pairs_ && block.per_group * g_.taps % 2 == 0;
        direct_ = (sizeof(S) == sizeof(T) || pairs_) && call.input_step[1] == 1;
    }

    // Fewest passes whose workspace fits the budget, which is that of float32 for half precision too: where the passes
    // end, sums in half precision are kept in float (`sums_kept`), so that nothing is rounded in between.
    void choose() {
        const int64_t bytes = static_cast<int64_t>(sizeof(T)), rows = call_.batch * g_.rows_in;
        // A small input is brought into the window whole; looking for the rows that are read would cost more.
        const bool whole = rows * g_.rest_in * round_up(call_.channels, 16) * bytes <= small_input;
        const RowRanges ranges = direct_ ? RowRanges{} : whole ? all_rows(g_) : row_ranges(g_);
        const int64_t tensors = g_.tensor_bytes(false) * bytes / static_cast<int64_t>(sizeof(S));
        budget_ = std::max(budget_floor, static_cast<int64_t>(budget_share * tensors));
        const bool may_split = sizeof(S) == sizeof(T) || sums_elements() * bytes <= most_kept;
        const int64_t least = direct_ ? 0 : smallest_window(ranges);
        int64_t window = rows;
        pass_blocks_ = static_cast<int64_t>(blocks_.size());
        for (;;) {
            const int64_t rows_of_scratch = columns_row() + sums_row(pass_blocks_) + 9 * g_.corners;
            const int64_t scratch = budget_threads * g_.room * rows_of_scratch;
            const int64_t pitch = widest_window();
            const int64_t left = budget_ / bytes - scratch - packed_elements(pass_blocks_);
            window = left / std::max<int64_t>(1, pitch * g_.rest_in);
            if (pass_blocks_ == 1 || !may_split || window >= std::min(rows, least + g_.tile_rows)) break;
            pass_blocks_ = (pass_blocks_ + 1) / 2;
        }
        if (direct_) {
            schedule_.bands.push_back({0, g_.tile_lines(), 0, 0});
            return;
        }
        const int64_t lines = 1 + 32 * threads() / g_.column_strips;
        // Each further thread has scratch that is not counted above; the window may grow by as much, so that a band has
        // tiles for all of them.
        const int64_t more = (threads() - budget_threads) * g_.room * (columns_row() + sums_row(pass_blocks_));
        window += std::max<int64_t>(0, more) / std::max<int64_t>(1, widest_window() * g_.rest_in);
        schedule_ = schedule(g_, ranges, std::max(window, least + g_.tile_rows), lines);
    }

    void reserve() {
        pitch_ = direct_ ? call_.input_step[2] : pairs_ ? 2 * widest_window() : widest_window();
        columns_row_ = columns_row();
        sums_row_ = sums_row(pass_blocks_);
        // Sums of several passes are kept in blocks when there is room to turn them round at the end (`unblock`).
        const bool several = pass_blocks_ < static_cast<int64_t>(blocks_.size());
        const int64_t turn = block_outputs * g_.pixels_out();
        sums_kept_ = several && sizeof(S) < sizeof(T);
        blocked_ = several && call_.groups == 1 && call_.output_step[1] != 1 && sizeof(S) == sizeof(T) &&
                   budget_threads * turn * static_cast<int64_t>(sizeof(T)) <= budget_;
        zeros_ = workspace_.plan<T>(round_up(call_.channels, 16));
        window_ = workspace_.plan<T>(direct_ ? 0 : schedule_.capacity * g_.rest_in * widest_window());
        sums_ = workspace_.plan<T>(sums_kept_ ? sums_elements() : 0);
        packed_ = workspace_.plan<T>(packed_elements(pass_blocks_));
        threads_.resize(static_cast<size_t>(threads()));
        for (Scratch& scratch : threads_) {
            scratch.columns = workspace_.plan<T>(g_.room * columns_row_);
            scratch.sums = workspace_.plan<T>(g_.room * sums_row_);
            scratch.plan.plan(workspace_, g_, false);
            scratch.planner.plan(workspace_, g_);
        }
        const int64_t taken = workspace_.bytes() / static_cast<int64_t>(sizeof(T));
        if (blocked_ && taken < threads() * turn) workspace_.plan<T>(threads() * turn - taken);
        workspace_.take();
        std::fill_n(workspace_.at(zeros_), zeros_.count, T(0));
    }

    template <class Team>
    void run_loops(Team& team) {
        const int64_t count = static_cast<int64_t>(blocks_.size());
        for (int64_t first = 0; first < count; first += pass_blocks_) {
            run_pass(team, first, std::min(count, first + pass_blocks_));
        }
        if (blocked_) unblock(team);
        if (sums_kept_) write_sums(team);
    }

   private:
    static Geometry geometry(const DcnDeformConv& call) {
        const int64_t rows = pair_products().rows;
        if (!std::is_same_v<S, BFloat> || !rows) return Geometry(call, usual_tile);
        const auto whole = [&](int64_t pixels) { return pixels / rows * rows; };
        if (call.outputs >= many_outputs * call.groups) return Geometry(call, whole(pairs_tile));
        return Geometry(call, whole(usual_tile), whole(usual_tile));
    }

    int threads() const { return static_cast<int>(call_.threads); }

    // Rows of the packed weights of one group: those of a product, or pairs of them.
    int64_t packed_rows(const ChannelBlock& block) const { return block.per_group * g_.taps / (pairs_ ? 2 : 1); }

    // Elements of the packed weights of one block.
    int64_t packed_size(const ChannelBlock& block) const {
        return block.groups * round_up(g_.group_outputs, gemm_.panel) * packed_rows(block);
    }

    int64_t columns_row() const {
        int64_t depth = 0;
        for (const ChannelBlock& block : blocks_) depth = std::max(depth, block.channels * g_.taps);
        if (pairs_) depth = (depth + 1) / 2;
        return round_up(depth, 16) + 16;  // not a multiple of a page: the rows are read side by side
    }

    // The widest of the passes of `size` blocks.
    template <class F>
    int64_t widest(int64_t size, F&& measure) const {
        int64_t result = 0;
        const int64_t count = static_cast<int64_t>(blocks_.size());
        for (int64_t first = 0; first < count; first += size) {
            result = std::max(result, measure(first, std::min(count, first + size)));
        }
        return result;
    }

    int64_t pass_channels(int64_t first, int64_t last) const {
        const ChannelBlock& end = blocks_[static_cast<size_t>(last - 1)];
        return end.first + end.channels - blocks_[static_cast<size_t>(first)].first;
    }

    // Elements of a pixel in the window: the channels of the widest pass, rounded up to whole cache lines.
    int64_t widest_window() const {
        const int64_t channels = widest(pass_blocks_, [this](auto a, auto b) { return pass_channels(a, b); });
        return round_up(pairs_ ? ceil_div(channels, 2) : channels, 16);
    }

    int64_t pass_groups(int64_t first, int64_t last) const {
        const ChannelBlock& end = blocks_[static_cast<size_t>(last - 1)];
        return end.group + end.groups - blocks_[static_cast<size_t>(first)].group;
    }

    int64_t sums_row(int64_t size) const {
        return widest(size, [this](auto a, auto b) { return pass_groups(a, b); }) * group_pitch_ + 16;
    }

    // Sums of all outputs in float, in blocks of 16 outputs.
    int64_t sums_elements() const { return call_.batch * call_.outputs * g_.pixels_out(); }

    int64_t packed_elements(int64_t size) const {
        return widest(size, [this](auto a, auto b) {
            int64_t total = 0;
            for (int64_t i = a; i < b; ++i) total += packed_size(blocks_[static_cast<size_t>(i)]);
            return total;
        });
    }

    // Pieces may be parts of the outputs when these are one group: whole panels, and whole blocks of add_blocked.
    int64_t unit() const { return call_.groups == 1 ? std::max<int64_t>(block_outputs, gemm_.panel) : call_.outputs; }

    template <class Team>
    void run_pass(Team& team, int64_t first, int64_t last) {
        pack(team, first, last);
        const ChannelBlock& start = blocks_[static_cast<size_t>(first)];
        int64_t loaded = 0;
        for (const Band& band : schedule_.bands) {
            if (!direct_) load_rows(team, loaded, band.load_end, start.first, pass_channels(first, last));
            loaded = std::max(loaded, band.load_end);
            const int64_t tile = band.first * g_.column_strips, tiles = (band.last - band.first) * g_.column_strips;
            // To sample a channel costs about as much as six outputs of it.
            const Range range{call_.outputs, unit(), 6 * call_.groups};
            const std::vector<Piece> work = cut_tiles(g_, tile, tiles, threads(), range);
            team.loop_in_runs(
                static_cast<int64_t>(work.size()),
                [&](int64_t i, int worker) {
                    run_piece(band, work[static_cast<size_t>(i)], first, last, threads_[static_cast<size_t>(worker)]);
                },
                [&](int64_t i) {
                    return range.cost(work[static_cast<size_t>(i)]) * g_.taps * pass_channels(first, last) / call_.groups;
                });
        }
    }

    template <class Team>
    void pack(Team& team, int64_t first, int64_t last) {
        packed_at_.assign(blocks_.size(), 0);
        std::vector<PackTask> tasks;
        int64_t at = 0;
        for (int64_t i = first; i < last; ++i) {
            const ChannelBlock& block = blocks_[static_cast<size_t>(i)];
            packed_at_[static_cast<size_t>(i)] = at;
            const int64_t panels = ceil_div(g_.group_outputs, gemm_.panel);
            for (int64_t group = 0; group < block.groups; ++group) {
                for (int64_t panel = 0; panel < panels; ++panel) tasks.push_back({i, group, panel});
            }
            at += packed_size(block);
        }
        team.loop(
            static_cast<int64_t>(tasks.size()), [&](int64_t i) { pack_panel(tasks[static_cast<size_t>(i)]); },
            [&](int64_t i) {
                return gemm_.panel * g_.taps * blocks_[static_cast<size_t>(tasks[static_cast<size_t>(i)].block)].per_group;
            });
    }

    struct PackTask {
        int64_t block, group, panel;
    };

    void pack_panel(const PackTask& task) {
        const ChannelBlock& block = blocks_[static_cast<size_t>(task.block)];
        const S* weight = static_cast<const S*>(call_.weight);
        const int64_t step = g_.group_channels * g_.taps, panel_size = packed_rows(block) * gemm_.panel;
        const int64_t panels = ceil_div(g_.group_outputs, gemm_.panel);
        const int64_t output = (block.group + task.group) * g_.group_outputs + task.panel * gemm_.panel;
        const int64_t outputs = std::min<int64_t>(gemm_.panel, g_.group_outputs - task.panel * gemm_.panel);
        T* panel = workspace_.at(packed_) + packed_at_[static_cast<size_t>(task.block)] +
                   (task.group * panels + task.panel) * panel_size;
        weight += output * step + block.start_in_group * g_.taps;
        if constexpr (std::is_same_v<S, BFloat>) {
            if (pairs_) {
                return pairs_gemm_.pack_outputs(weight, step, outputs, block.per_group, g_.taps,
                                                reinterpret_cast<uint32_t*>(panel));
            }
        }
        layout_.pack_outputs(weight, step, outputs, block.per_group, g_.taps, gemm_.panel, panel);
    }

    template <class Team>
    void load_rows(Team& team, int64_t from, int64_t to, int64_t channel, int64_t channels) {
        // Parts of rows where there are too few for the threads: 16 tasks each are even enough.
        const int64_t wanted = threads() > 1 ? 16 * threads() / std::max<int64_t>(1, to - from) : 1;
        const int64_t parts = std::max<int64_t>(1, std::min(wanted, g_.rest_in / 16));
        const int64_t width = ceil_div(g_.rest_in, parts);
        const auto load = [&](int64_t i) {
            const int64_t row = from + i / parts, column = i % parts * width;
            const int64_t columns = std::min(width, g_.rest_in - column);
            if (columns <= 0 || !schedule_.live[static_cast<size_t>(row)]) return;
            const int64_t image = row / g_.rows_in, pixel = row % g_.rows_in * g_.rest_in + column;
            const S* source = static_cast<const S*>(call_.input) + image * call_.input_step[0] +
                              channel * call_.input_step[1] + pixel * call_.input_step[2];
            const int64_t at = (schedule_.slot[static_cast<size_t>(row)] + column) * pitch_;
            if (pairs_) {
                layout_.gather_bits(source, call_.input_step[1], call_.input_step[2], channels, columns,
                                    bits(workspace_.at(window_)) + at, pitch_);
            } else {
                layout_.gather(source, call_.input_step[1], call_.input_step[2], channels, columns,
                               workspace_.at(window_) + at, pitch_);
            }
        };
        team.loop_in_runs((to - from) * parts, load, [&](int64_t) { return width * channels * 4; });
    }

    struct Scratch {
        Room<T> columns, sums;
        PlanRoom<T> plan;
        TilePlanner<T> planner;
    };

    void run_piece(const Band& band, const Piece& piece, int64_t first, int64_t last, const Scratch& scratch) {
        const Tile& tile = piece.tile;
        SamplingPlan<T> plan = scratch.plan.at(workspace_, g_, tile.pixels());
        const RowSlots slots = schedule_.slots(band, tile.image * g_.rows_in, g_.rest_in);
        const ChannelBlock& start = blocks_[static_cast<size_t>(first)];
        int64_t planned = -1;
        for (int64_t i = first; i < last; ++i) {
            const ChannelBlock& block = blocks_[static_cast<size_t>(i)];
            for (const Segment& segment : segments_[static_cast<size_t>(i)]) {
                if (segment.offset_group != planned) {
                    planned = segment.offset_group;
                    scratch.planner.run(workspace_, g_, kernels_, tile, planned, slots, true, plan);
                }
                const int64_t channel = block.first - start.first + segment.channel;
                if (pairs_) {
                    kernels_.sample_pairs(plan, source_of<uint16_t>(tile, start.first) + channel, pitch_,
                                          segment.channels, bits(workspace_.at(zeros_)),
                                          bits(workspace_.at(scratch.columns)) + segment.column, 2 * columns_row_,
                                          segment.column_tap);
                } else {
                    kernels_.sample(plan, source_of<T>(tile, start.first) + channel, pitch_, segment.channels,
                                    workspace_.at(zeros_), workspace_.at(scratch.columns) + segment.column,
                                    columns_row_, segment.column_tap);
                }
            }
            multiply(piece, i, start, first, scratch);
        }
        write(piece, first, last, scratch);
    }

    static uint16_t* bits(T* memory) { return reinterpret_cast<uint16_t*>(memory); }

    template <class E>
    const E* source_of(const Tile& tile, int64_t channel) const {
        if (!direct_) return reinterpret_cast<const E*>(workspace_.at(window_));
        return static_cast<const E*>(call_.input) + tile.image * call_.input_step[0] + channel;
    }

    void multiply(const Piece& piece, int64_t i, const ChannelBlock& start, int64_t first, const Scratch& scratch) {
        const int64_t pixels = piece.tile.pixels();
        const ChannelBlock& block = blocks_[static_cast<size_t>(i)];
        const int64_t rows = packed_rows(block), panel = rows * gemm_.panel;
        // Only one group is divided: its outputs begin with a panel.
        const int64_t outputs = call_.groups == 1 ? piece.count : g_.group_outputs;
        const int64_t part = call_.groups == 1 ? piece.first : 0;
        const T* packed = workspace_.at(packed_) + packed_at_[static_cast<size_t>(i)] + part * rows;
        for (int64_t group = 0; group < block.groups; ++group) {
            const bool accumulate = i > first && block.group == blocks_[static_cast<size_t>(i - 1)].group;
            const T* columns = workspace_.at(scratch.columns) + group * rows;
            T* sums = workspace_.at(scratch.sums) + (block.group + group - start.group) * group_pitch_ + part;
            const T* weight = packed + group * ceil_div(g_.group_outputs, gemm_.panel) * panel;
            if constexpr (std::is_same_v<S, BFloat>) {
                if (pairs_) {
                    pairs_gemm_.multiply(pixels, outputs, rows, reinterpret_cast<const uint32_t*>(columns), columns_row_,
                                         reinterpret_cast<const uint32_t*>(weight), panel, gemm_.panel, sums, sums_row_,
                                         accumulate);
                    continue;
                }
            }
            gemm_.multiply(pixels, outputs, rows, columns, columns_row_, 1, weight, panel, gemm_.panel, sums, sums_row_,
                           accumulate);
        }
    }

    // Adds the sums of a tile to the output (or starts it, with the bias).
    void write(const Piece& piece, int64_t first, int64_t last, const Scratch& scratch) {
        const ChannelBlock& start = blocks_[static_cast<size_t>(first)];
        const T* sums = workspace_.at(scratch.sums);
        if (call_.groups == 1) {
            return write_run(piece.tile, sums + piece.first, piece.first, piece.count, start.start_in_group != 0);
        }
        const int64_t groups = pass_groups(first, last);
        for (int64_t i = 0; i < groups; ++i) {
            const bool continued = i == 0 && start.start_in_group != 0;
            write_run(piece.tile, sums + i * group_pitch_, (start.group + i) * g_.group_outputs, g_.group_outputs, continued);
        }
    }

    void write_run(const Tile& tile, const T* sums, int64_t output, int64_t outputs, bool accumulate) {
        const S* bias = call_.bias && !accumulate ? static_cast<const S*>(call_.bias) + output : nullptr;
        const bool whole = tile.columns == g_.rest_out;  // the rows of the tile follow each other in memory
        const int64_t rows = whole ? 1 : tile.rows, run = whole ? tile.pixels() : tile.columns;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t pixel = (tile.row + r) * g_.rest_out + tile.column;
            if (sums_kept_) {
                T* group = workspace_.at(sums_) + (tile.image * call_.outputs + output) * g_.pixels_out();
                sums_layout_.add_blocked(sums + r * run * sums_row_, sums_row_, outputs, run, group, g_.pixels_out(),
                                         pixel, accumulate);
                continue;
            }
            if (blocked_) {
                S* blocks = static_cast<S*>(call_.output) + tile.image * call_.output_step[0] + output * g_.pixels_out();
                layout_.add_blocked(sums + r * run * sums_row_, sums_row_, outputs, run, blocks, g_.pixels_out(), pixel,
                                    accumulate);
                continue;
            }
            S* to = static_cast<S*>(call_.output) + tile.image * call_.output_step[0] + output * call_.output_step[1] +
                    pixel * call_.output_step[2];
            layout_.scatter(sums + r * run * sums_row_, sums_row_, outputs, run, to, call_.output_step[1],
                            call_.output_step[2], bias, accumulate);
        }
    }

    // Turns every block of 16 outputs from [pixel][output] into [output][pixel], with the bias. The rest of the
    // workspace is free by now: each thread has its part of it as room for one block.
    template <class Team>
    void unblock(Team& team) {
        if constexpr (sizeof(S) == sizeof(T)) {
            const int64_t plane = g_.pixels_out(), per_image = ceil_div(call_.outputs, block_outputs);
            const auto turn = [&](int64_t i, int worker) {
                const int64_t output = i % per_image * block_outputs;
                const int64_t width = std::min(block_outputs, call_.outputs - output);
                S* block = static_cast<S*>(call_.output) + i / per_image * call_.output_step[0] + output * plane;
                T* copy = workspace_.at(Room<T>{}) + worker * block_outputs * plane;
                std::copy_n(block, width * plane, copy);
                const S* bias = call_.bias ? static_cast<const S*>(call_.bias) + output : nullptr;
                layout_.scatter(copy, width, width, plane, block, plane, 1, bias, false);
            };
            team.loop(call_.batch * per_image, turn, [&](int64_t) { return 4 * block_outputs * plane; });
        }
    }

    // Sums kept in float become the output: blocks of 16 outputs of one convolution group at a time.
    template <class Team>
    void write_sums(Team& team) {
        const int64_t plane = g_.pixels_out(), per_group = ceil_div(g_.group_outputs, block_outputs);
        const auto turn = [&](int64_t i) {
            const int64_t first = i % per_group * block_outputs;
            const int64_t width = std::min(block_outputs, g_.group_outputs - first);
            const int64_t output = i / per_group % call_.groups * g_.group_outputs + first;
            const int64_t image = i / per_group / call_.groups;
            const S* bias = call_.bias ? static_cast<const S*>(call_.bias) + output : nullptr;
            S* to = static_cast<S*>(call_.output) + image * call_.output_step[0] + output * call_.output_step[1];
            layout_.scatter(workspace_.at(sums_) + (image * call_.outputs + output) * plane, width, width, plane,
                            to, call_.output_step[1], call_.output_step[2], bias, false);
        };
        team.loop(call_.batch * call_.groups * per_group, turn, [&](int64_t) { return 4 * block_outputs * plane; });
    }

    static constexpr int64_t block_outputs = 16;
    static constexpr int64_t small_input = 64 << 10;  // bytes
    static constexpr int64_t most_kept = 24 << 20;  // bytes of sums kept in float: the workspace of 32 MiB is reused

    const DcnDeformConv& call_;
    const Geometry g_;
    const DeformConvKernels<T>& kernels_;
    const Gemm<T>& gemm_;
    const GemmPairs& pairs_gemm_;
    const Layout<S, T>& layout_;
    const Layout<T, T>& sums_layout_;
    std::vector<ChannelBlock> blocks_;
    std::vector<std::vector<Segment>> segments_;
    std::vector<int64_t> packed_at_;
    RowSchedule schedule_;
    bool direct_ = false;  // the input has its channels innermost already
    bool blocked_ = false, sums_kept_ = false, pairs_ = false;
    int64_t budget_ = 0, group_pitch_ = 0, pass_blocks_ = 0, columns_row_ = 0, sums_row_ = 0;
    int64_t pitch_ = 0;  // elements from pixel to pixel of the window or the input: of type S where these are `pairs_`
    Workspace workspace_;
    Room<T> zeros_, window_, packed_, sums_;
    std::vector<Scratch> threads_;
};

}  // namespace

void deform_conv_forward(const DcnDeformConv& call) {
    if (call.batch * call.out[0] * call.out[1] * call.out[2] * call.outputs == 0) return;
    depthwise(call) ? deform_conv_depthwise(call) : run_pass<Forward>(call);
}

}  // namespace dcn
