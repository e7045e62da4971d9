// Forward pass of depthwise convolutions. The window holds blocks of 32 channels, each with its channels innermost: what
// the taps of a tile read of one block stays in the L2 cache. (A channels-last input is brought into it as well: read
// where it lay it took 25 % longer.) A tile is sampled once for all channels of an offset group.
#include <algorithm>
#include <vector>

#include "deform_conv.h"
#include "deform_conv_depthwise_kernels.h"
#include "deform_conv_pass.h"
#include "integers.h"
#include "layout.h"
#include "tables.h"
#include "tile_plan.h"

namespace dcn {
namespace {

// Workspace allowed, as a part of the tensors of the call; the goal is 20 % including what the process keeps.
constexpr double budget_share = 0.15;
constexpr int64_t budget_floor = 3 << 19;
constexpr int64_t budget_threads = 2;  // whose scratch counts
constexpr int64_t block = 32;          // channels
// A tile: wide, because a run of output pixels lies in every channel's plane; 32 columns took 12 % longer. A part of it,
// worked off column by column: one row of it took 6 % longer, 4 or 8 had shorter runs.
constexpr int64_t tile_width = 192, tile_pixels = 384;
constexpr int64_t part_rows = 2, part_pixels = 128;
constexpr int64_t tile_bytes = 192 << 10;  // of the records of a tile
constexpr int64_t load_pixels = 512;       // of the window, brought in by one task
constexpr int64_t small_input = 64 << 10;  // bytes

template <class T>
const DepthwiseKernels<T>& depthwise_kernels() {
    if constexpr (sizeof(T) == 8) {
        return DCN_FOR_ISA(depthwise_double)();
    } else {
        return DCN_FOR_ISA(depthwise_float)();
    }
}

// Pixels of a tile whose records fit the L2 cache.
template <class T>
int64_t pixels_of_tile(const DcnDeformConv& call) {
    const int64_t taps = call.kernel[0] * call.kernel[1] * call.kernel[2];
    return std::min(tile_pixels, std::max<int64_t>(16, tile_bytes / (taps * tap_bytes<T>(int64_t{1} << call.axes))));
}

template <class S>
class Depthwise {
    using T = typename Compute<S>::type;

   public:
    explicit Depthwise(const DcnDeformConv& call)
        : call_(call),
          g_(call, pixels_of_tile<T>(call), tile_width, false),
          part_(g_),
          conv_(conv_kernels<T>()),
          kernels_(depthwise_kernels<T>()),
          layout_(layout<S>()) {
        part_rows_ = std::min(g_.tile_rows, part_rows);
        part_columns_ = std::min(g_.tile_columns, part_pixels / part_rows_);
        part_.room = round_up(part_rows_ * part_columns_, 16);
    }

    // Fewest passes over the channels whose workspace fits the budget, which is that of float32 for half precision too.
    void choose() {
        const int64_t bytes = static_cast<int64_t>(sizeof(T)), rows = call_.batch * g_.rows_in;
        const int64_t channels = round_up(call_.channels, block);
        // A small input is brought into the window whole; looking for the rows that are read would cost more.
        const bool whole = rows * g_.rest_in * channels * bytes <= small_input;
        const RowRanges ranges = whole ? all_rows(g_) : row_ranges(g_);
        const int64_t tensors = g_.tensor_bytes(false) * bytes / static_cast<int64_t>(sizeof(S));
        const int64_t budget = std::max(budget_floor, static_cast<int64_t>(budget_share * static_cast<double>(tensors)));
        const int64_t least = smallest_window(ranges);
        const int64_t scratch = tile_records() / bytes +
                                g_.tile_rows * g_.tile_columns * block + part_.room * g_.taps * (2 * g_.corners + call_.axes);
        const int64_t left = budget / bytes - budget_threads * scratch - channels * g_.taps;
        pass_channels_ = channels;
        int64_t window = left / (pass_channels_ * g_.rest_in);
        while (pass_channels_ > block && window < std::min(rows, least + g_.tile_rows)) {
            pass_channels_ = round_up(pass_channels_ / 2, block);
            window = left / (pass_channels_ * g_.rest_in);
        }
        const int64_t lines = 1 + 16 * threads() / g_.column_strips;
        // Each further thread has scratch that is not counted above; the window may grow by as much.
        window += std::max<int64_t>(0, (threads() - budget_threads) * scratch) / (pass_channels_ * g_.rest_in);
        schedule_ = schedule(g_, ranges, std::max(window, least + g_.tile_rows), lines);
    }

    void reserve() {
        block_step_ = (schedule_.capacity * g_.rest_in + 1) * block;
        window_ = workspace_.plan<T>(block_step_ * (pass_channels_ / block));
        packed_ = workspace_.plan<T>(round_up(call_.channels, block) * g_.taps);
        threads_.resize(static_cast<size_t>(threads()));
        for (Scratch& scratch : threads_) {
            scratch.sums = workspace_.plan<T>(g_.tile_rows * g_.tile_columns * block);
            scratch.records = workspace_.plan<char>(tile_records());
            scratch.plan.plan(workspace_, part_, false);
            scratch.planner.plan(workspace_, part_);
        }
        workspace_.take();
        for (int64_t i = 0; i < pass_channels_ / block; ++i) {
            std::fill_n(workspace_.at(window_) + (i + 1) * block_step_ - block, block, T(0));
        }
    }

    template <class Team>
    void run_loops(Team& team) {
        pack(team);
        for (int64_t first = 0; first < call_.channels; first += pass_channels_) {
            run_pass(team, first, std::min(call_.channels, first + pass_channels_));
        }
    }

   private:
    struct Scratch {
        Room<T> sums;
        Room<char> records;
        PlanRoom<T> plan;
        TilePlanner<T> planner;
    };

    int threads() const { return static_cast<int>(call_.threads); }
    int64_t tile_records() const { return g_.tile_rows * g_.tile_columns * g_.taps * tap_bytes<T>(g_.corners); }

    // The weights as [block][tap][channel of the block].
    template <class Team>
    void pack(Team& team) {
        const auto pack_block = [&](int64_t i) {
            const int64_t first = i * block, channels = std::min(block, call_.channels - first);
            T* to = workspace_.at(packed_) + first * g_.taps;
            std::fill_n(to, block * g_.taps, T(0));
            for (int64_t t = 0; t < g_.taps; ++t) {
                conv_.read(static_cast<const S*>(call_.weight) + first * g_.taps + t,
                           static_cast<int32_t>(call_.dtype), g_.taps, channels, to + t * block);
            }
        };
        team.loop(ceil_div(call_.channels, block), pack_block, [&](int64_t) { return block * g_.taps; });
    }

    template <class Team>
    void run_pass(Team& team, int64_t first, int64_t last) {
        int64_t loaded = 0;
        for (const Band& band : schedule_.bands) {
            load_rows(team, loaded, band.load_end, first, last);
            loaded = std::max(loaded, band.load_end);
            const int64_t tile = band.first * g_.column_strips, tiles = (band.last - band.first) * g_.column_strips;
            // To prepare a sample costs about as much as 16 channels of it.
            const Range range{last - first, block, 16};
            const std::vector<Piece> work = cut_tiles(g_, tile, tiles, threads(), range);
            team.loop_in_runs(
                static_cast<int64_t>(work.size()),
                [&](int64_t i, int worker) {
                    run_piece(band, work[static_cast<size_t>(i)], first, threads_[static_cast<size_t>(worker)]);
                },
                [&](int64_t i) { return range.cost(work[static_cast<size_t>(i)]) * g_.taps * 5; });
        }
    }

    // Brings rows of all blocks of the channels into the window.
    template <class Team>
    void load_rows(Team& team, int64_t from, int64_t to, int64_t first, int64_t last) {
        const int64_t blocks = ceil_div(last - first, block), wanted = ceil_div(16 * threads(), blocks);
        const int64_t rows = std::max<int64_t>(1, std::min(load_pixels / g_.rest_in, (to - from) / wanted));
        const int64_t runs = ceil_div(to - from, rows);
        const int64_t parts = rows > 1 ? 1 : std::max<int64_t>(1, std::min(wanted / std::max<int64_t>(1, runs), g_.rest_in / 16));
        const int64_t width = ceil_div(g_.rest_in, parts);
        const auto load = [&](int64_t i) {
            const int64_t start = from + i / blocks / parts * rows, channel = first + i % blocks * block;
            load_block(start, std::min(to, start + rows), i / blocks % parts * width, width, channel,
                       std::min(block, last - channel), workspace_.at(window_) + i % blocks * block_step_);
        };
        team.loop_in_runs(runs * parts * blocks, load, [&](int64_t i) {
            return std::min(rows, to - from - i / blocks / parts * rows) * width * block * 4;
        });
    }

    // Columns of rows; whole rows that follow each other in the window at once.
    void load_block(int64_t from, int64_t to, int64_t column, int64_t width, int64_t channel, int64_t channels,
                    T* window) {
        const int64_t columns = std::min(width, g_.rest_in - column);
        if (columns <= 0) return;
        for (int64_t row = from, rows = 1; row < to; row += rows, rows = 1) {
            const int32_t* slot = schedule_.slot.data() + row;
            const auto live = schedule_.live.begin() + row;
            if (!*live) continue;
            while (row + rows < to && (row + rows) % g_.rows_in && live[rows] && slot[rows] > *slot) ++rows;
            const int64_t image = row / g_.rows_in, pixel = row % g_.rows_in * g_.rest_in + column;
            const int64_t pixels = (rows - 1) * g_.rest_in + columns;
            const S* source = static_cast<const S*>(call_.input) + image * call_.input_step[0] +
                              channel * call_.input_step[1] + pixel * call_.input_step[2];
            T* target = window + (*slot + column) * block;
            layout_.gather(source, call_.input_step[1], call_.input_step[2], channels, pixels, target, block);
            for (int64_t p = 0; channels < block && p < pixels; ++p) {
                std::fill(target + p * block + channels, target + (p + 1) * block, T(0));
            }
        }
    }

    template <class F>
    void for_each_part(const Tile& tile, F&& body) const {
        int64_t pixels = 0;
        for (int64_t row = 0; row < tile.rows; row += part_rows_) {
            for (int64_t column = 0; column < tile.columns; column += part_columns_) {
                const Tile part{tile.image, tile.row + row, std::min(part_rows_, tile.rows - row), tile.column + column,
                                std::min(part_columns_, tile.columns - column)};
                body(part, pixels);
                pixels += part.pixels();
            }
        }
    }

    // Channels of a pass that starts at channel `first`.
    void run_piece(const Band& band, const Piece& piece, int64_t first, const Scratch& scratch) {
        const Tile& tile = piece.tile;
        const int64_t from = first + piece.first, to = from + piece.count;
        const RowSlots slots = schedule_.slots(band, tile.image * g_.rows_in, g_.rest_in);
        char* records = workspace_.at(scratch.records);
        const int64_t record = g_.taps * tap_bytes<T>(g_.corners);
        const auto nothing = static_cast<int32_t>(schedule_.capacity * g_.rest_in);
        int64_t planned = -1;
        for (int64_t c = from; c < to;) {
            const int64_t group = c / g_.offset_channels;
            const int64_t end = std::min({to, (group + 1) * g_.offset_channels, (c / block + 1) * block});
            if (group != planned) {
                planned = group;
                for_each_part(tile, [&](const Tile& part, int64_t pixel) {
                    SamplingPlan<T> plan = scratch.plan.at(workspace_, part_, part.pixels());
                    scratch.planner.run(workspace_, part_, conv_, part, group, slots, true, plan);
                    kernels_.records(plan, part.rows, nothing, records + pixel * record);
                });
            }
            for_each_part(tile, [&](const Tile& part, int64_t pixel) {
                sum_part(tile, part, first, c, end, records + pixel * record, scratch);
            });
            write(tile, c, end - c, workspace_.at(scratch.sums));
            c = end;
        }
    }

    // Channels [c, end), all of one block.
    void sum_part(const Tile& tile, const Tile& part, int64_t first, int64_t c, int64_t end, const void* records,
                  const Scratch& scratch) {
        prefetch(part, c, end);
        const SamplingPlan<T> plan = scratch.plan.at(workspace_, part_, part.pixels());
        // Whole vectors at the end of the channels too: the window and the weights are filled up with zeros.
        const int64_t channels = end == call_.channels ? round_up(end, block) - c : end - c;
        const T* source = workspace_.at(window_) + (c - first) / block * block_step_ + c % block;
        const int64_t at = (part.row - tile.row) * tile.columns + part.column - tile.column;
        kernels_.sum(plan, part.rows, records, source, block, channels,
                     workspace_.at(packed_) + c / block * block * g_.taps + c % block, block,
                     workspace_.at(scratch.sums) + at * block, tile.columns * block, block);
    }

    // The output is not in the cache: 32 lines at once are fetched while the sums are computed.
    void prefetch(const Tile& part, int64_t c, int64_t end) const {
        if (call_.output_step[1] == 1) return;
        const bool whole = part.columns == g_.rest_out;
        const int64_t rows = whole ? 1 : part.rows, run = whole ? part.pixels() : part.columns;
        for (int64_t r = 0; r < rows; ++r) {
            const char* to = static_cast<const char*>(call_.output) +
                             (part.image * call_.output_step[0] + c * call_.output_step[1] +
                              ((part.row + r) * g_.rest_out + part.column) * call_.output_step[2]) *
                                 static_cast<int64_t>(sizeof(S));
            const int64_t step = call_.output_step[1] * static_cast<int64_t>(sizeof(S));
            const int64_t length = run * static_cast<int64_t>(sizeof(S));
            for (int64_t i = 0; i < end - c; ++i) {
                for (int64_t at = 0; at < length + 63; at += 64) {
                    __builtin_prefetch(to + i * step + std::min(at, length - 1), 1);
                }
            }
        }
    }

    void write(const Tile& tile, int64_t c, int64_t channels, const T* sums) const {
        const S* bias = call_.bias ? static_cast<const S*>(call_.bias) + c : nullptr;
        const bool whole = tile.columns == g_.rest_out;  // the rows of the tile follow each other in memory
        const int64_t rows = whole ? 1 : tile.rows, run = whole ? tile.pixels() : tile.columns;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t pixel = (tile.row + r) * g_.rest_out + tile.column;
            S* to = static_cast<S*>(call_.output) + tile.image * call_.output_step[0] + c * call_.output_step[1] +
                    pixel * call_.output_step[2];
            layout_.scatter(sums + r * run * block, block, channels, run, to, call_.output_step[1],
                            call_.output_step[2], bias, false);
        }
    }

    const DcnDeformConv& call_;
    const Geometry g_;
    Geometry part_;      // the same with room for the pixels of a part of a tile
    const DeformConvKernels<T>& conv_;
    const DepthwiseKernels<T>& kernels_;
    const Layout<S, T>& layout_;
    int64_t part_rows_ = 0, part_columns_ = 0, pass_channels_ = 0, block_step_ = 0;
    RowSchedule schedule_;
    Workspace workspace_;
    Room<T> window_, packed_;
    std::vector<Scratch> threads_;
};

}  // namespace

void deform_conv_depthwise(const DcnDeformConv& call) { run_pass<Depthwise>(call); }

}  // namespace dcn
