// Backward pass. A block of 16 channels owns its part of the gradients of input and weight, and adds to it tile by
// tile, so no sum depends on the number of threads. The output is walked in bands of a few lines of tiles. In each band
//   1. the transposed output gradient and the sampling plans of its tiles are made once, for all channels;
//   2. every block multiplies (gradient of the columns), reads the corners once for columns, dot products and the
//      scatter into the input gradient, and multiplies again (gradient of the weight);
//   3. the offset and mask gradients of the blocks are added in the order of the channels.
// Input and input gradient are held in windows of rows with channels innermost. When memory asks for it the blocks are
// worked off in several rounds.
//
// Step 2 of a block is one task where the threads share the blocks evenly. Where they do not, but are no more than the
// blocks, it is a chain of tasks, some tiles each. Else it is divided finely, in two loops: the columns of a few blocks
// and tiles are kept, made by parts of a tile; then each task adds what one stripe of pixels of the input gets, or makes
// some rows and columns of the weight gradient. The sums are the same, in the same order. It is only done where it is
// needed: the corners are sorted and visited twice.
#include "deform_conv_backward_parts.h"

#include "deform_conv_pass.h"

namespace dcn {
namespace {

constexpr double budget_share = 0.13;
constexpr int64_t budget_floor = 3 << 20;
constexpr int64_t band_pixels = 1500;
constexpr int64_t budget_threads = 2;  // whose scratch counts: the rounds must not depend on the number of threads
constexpr int64_t least_blocks = 4;  // of a round: work for as many threads, whatever the memory

template <class S>
class Backward : BackwardParts<S> {
    using Parts = BackwardParts<S>;
    using typename Parts::Columns, typename Parts::Part, typename Parts::Round, typename Parts::Scratch;
    using typename Parts::T, typename Parts::WeightRun;
    using Parts::call_, Parts::g_, Parts::depthwise_, Parts::direct_, Parts::gemm_, Parts::pairs_, Parts::pairs_gemm_;
    using Parts::blocks_, Parts::schedule_;
    using Parts::block_channels_, Parts::packed_block_, Parts::pitch_, Parts::columns_row_, Parts::workspace_;
    using Parts::round_blocks_, Parts::band_tiles_, Parts::stripes_, Parts::kept_slots_, Parts::kept_, Parts::threads_;
    using Parts::stripes_apart_, Parts::weight_parts, Parts::weight_part, Parts::part_sums, Parts::weight_sums;
    using Parts::run_depthwise;
    using Parts::block, Parts::threads, Parts::wants_locations, Parts::outputs, Parts::offset_groups, Parts::values;
    using Parts::plan_elements, Parts::partial_elements, Parts::scratch_elements, Parts::gradient_row;
    using Parts::packed_size, Parts::run_part, Parts::weight_gradient;

   public:
    explicit Backward(const DcnDeformConv& call) : Parts(call) {}

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
        divide(lines);
        lines *= band_factor_;
        window += (band_factor_ - 1) * lines * g_.tile_rows;
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

    template <class Team>
    void run_loops(Team& team) {
        if (call_.grad_input && direct_) clear_input(team);
        const int64_t count = static_cast<int64_t>(blocks_.size());
        for (int64_t first = 0; first < count; first += round_blocks_) {
            run_round(team, {first, std::min(count, first + round_blocks_)});
        }
    }

    using Parts::reserve;

   private:
    // 100 times what equal tasks take, in tasks of one thread.
    int64_t time_of(int64_t tasks) const { return 100 * ceil_div(tasks, threads()) * threads(); }

    // Into how many tasks each of `blocks` blocks is divided along the tiles of a band: the fewest that come out even.
    int64_t links(int64_t blocks, int64_t tiles) const {
        constexpr int64_t most = 16;
        int64_t best = 1;
        if (threads() > blocks) return best;  // the links of a chain follow each other
        for (int64_t one = 1; one <= std::min(most, tiles); ++one) {
            if (time_of(blocks * one) * best < time_of(blocks * best) * one) best = one;
            if (time_of(blocks * best) <= 103 * blocks * best) break;
        }
        return best;
    }

    // How finely step 2 is divided, for bands of `lines` lines.
    void divide(int64_t lines) {
        // The same work takes 1.04 times as long with 512 channels, 1.3 times with 64 and 2.7 times with 16 outputs.
        const int64_t tasks = round_blocks_ * links(round_blocks_, lines * g_.column_strips);
        const int64_t percent = depthwise_ ? 110 : g_.group_outputs < 32 ? 270 : 110;
        if (threads() <= 2 || time_of(tasks) <= percent * tasks || g_.taps >= most_taps) return;
        // With many threads larger bands, so that the steps that are divided by tiles and rows have enough of them.
        band_factor_ = std::clamp<int64_t>(threads() / 8, 1, 4);
        const int64_t tiles = lines * band_factor_ * g_.column_strips;
        if (depthwise_) {
            // Half of the work is one task for each block; for more threads than these keep up with, it has stripes.
            constexpr int64_t most = 256;
            const bool rest = wants_locations() || call_.grad_weight;
            stripes_apart_ = true;
            if (!call_.grad_input || (rest && threads() <= 2 * round_blocks_)) return;
            const int64_t enough = (rest ? 4 : 12) * threads();
            for (stripes_ = 2; stripes_ < most && stripes_ * round_blocks_ < enough;) stripes_ *= 2;
            return;
        }
        const int64_t fitting = most_kept / (2 * g_.room * columns_row_ * static_cast<int64_t>(sizeof(T)));
        const int64_t kept = std::max<int64_t>(8, std::min(fitting, std::max<int64_t>(24, 2 * threads())));
        chunk_blocks_ = std::min<int64_t>(round_blocks_, 8);
        chunk_tiles_ = std::clamp<int64_t>(kept / chunk_blocks_, 1, tiles);
        kept_slots_ = chunk_blocks_ * chunk_tiles_;
        stripes_ = call_.grad_input ? 1 : 0;
        const int64_t enough = (call_.grad_weight ? 6 : 10) * threads();  // alone they must come out even
        while (stripes_ && stripes_ < 128 && stripes_ * chunk_blocks_ < enough) stripes_ *= 2;
        // Of the weight gradient as many rows at once as the processor keeps sums of, where that leaves tasks for all.
        const int64_t panels = chunk_blocks_ * ceil_div(block_channels_ * g_.taps, gemm_.panel);
        const int64_t most = pairs_ ? pairs_gemm_.rows : 14;
        for (const int64_t rows : {most, most / 2, (most + 2) / 4}) {
            weight_outputs_ = rows;
            if (panels * ceil_div(g_.group_outputs, rows) >= 9 * threads()) break;
        }
    }

    // Gradients that lie as the tensor does are added to in place.
    template <class Team>
    void clear_input(Team& team) {
        constexpr int64_t part = 1 << 16;
        const int64_t count = call_.batch * call_.channels * g_.pixels_in();
        S* to = static_cast<S*>(call_.grad_input);
        const auto size = [&](int64_t i) { return std::min(part, count - i * part); };
        team.loop(ceil_div(count, part), [&](int64_t i) { std::fill_n(to + i * part, size(i), S{}); }, size);
    }

    template <class Team>
    void run_round(Team& team, const Round& round) {
        const int64_t blocks = round.last - round.first;
        team.loop(blocks, [&](int64_t i) { this->prepare(round, round.first + i); },
                  [&](int64_t i) { return packed_size(block(round.first + i)); });
        int64_t loaded = 0;
        for (size_t b = 0; b < schedule_.bands.size(); ++b) {
            const Band& band = schedule_.bands[b];
            const bool last = b + 1 == schedule_.bands.size();
            const Rows rows{loaded, band.load_end, b == 0 ? 0 : band.low,
                            last ? call_.batch * g_.rows_in : schedule_.bands[b + 1].low};
            const Tiles tiles{band.first * g_.column_strips, (band.last - band.first) * g_.column_strips};
            prepare_tiles(team, round, band, tiles);
            kept_slots_ || stripes_apart_ ? run_finely(team, round, tiles, rows) : run_blocks(team, round, tiles, rows);
            if (wants_locations()) reduce_locations(team, round, tiles);
            loaded = std::max(loaded, band.load_end);
        }
        if (call_.grad_weight) {
            team.loop(blocks, [&](int64_t i, int worker) { this->finish_weight(block(round.first + i), worker); },
                      [&](int64_t) { return 2 * g_.group_outputs * block_channels_ * g_.taps; });
        }
    }

    struct Tiles {
        int64_t first, count;
    };

    // Of the windows: those that a band brings in, and those that are done behind it.
    struct Rows {
        int64_t load, load_end, flush, flush_end;
    };

    // Costs are counted in multiplications, or what takes as long.
    int64_t row_cost() const { return 4 * g_.rest_in * block_channels_; }

    template <class Team>
    void prepare_tiles(Team& team, const Round& round, const Band& band, const Tiles& tiles) {
        constexpr int64_t turned = 128;  // outputs of a task
        const int64_t all = outputs(round), parts = 1 + ceil_div(all, turned);
        const auto output = [&](int64_t task) { return (task % parts - 1) * turned; };  // negative: the plans
        const auto prepare = [&](int64_t task, int worker) {
            if (output(task) < 0) return this->plan_tile(round, band, tiles.first, task / parts, worker);
            this->turn_gradient(round, tiles.first, task / parts, output(task), std::min(turned, all - output(task)));
        };
        team.loop(tiles.count * parts, prepare, [&](int64_t task) {
            const int64_t pixels = g_.tile(tiles.first + task / parts).pixels();
            if (output(task) >= 0) return pixels * 4 * std::min(turned, all - output(task));
            return pixels * offset_groups(round) * g_.taps * (16 + (stripes_ ? 12 : 4) * g_.corners);
        });
    }

    template <class Team>
    void reduce_locations(Team& team, const Round& round, const Tiles& tiles) {
        const int64_t few = 8 * threads();  // tiles that leave nothing to do for some threads
        const int64_t parts = threads() > 2 && tiles.count < few ? std::min(g_.taps, ceil_div(few, tiles.count)) : 1;
        const auto taps = [&](int64_t i) { return typename Parts::Taps{i * g_.taps / parts, (i + 1) * g_.taps / parts}; };
        const int64_t cost = 2 * (round.last - round.first + 4 * offset_groups(round)) * values() / parts;
        team.loop(tiles.count * parts,
                  [&](int64_t i) { this->reduce(round, tiles.first, i / parts, taps(i % parts)); }, [&](int64_t) { return cost; });
    }

    // A block is a chain of tasks, usually of one.
    template <class Team>
    void run_blocks(Team& team, const Round& round, const Tiles& tiles, const Rows& rows) {
        const int64_t blocks = round.last - round.first, parts = links(blocks, tiles.count);
        DcnChains chains(blocks, parts);
        const auto first_of = [&](int64_t part) { return part * tiles.count / parts; };
        const auto run = [&](int64_t i, int64_t part, int worker) {
            const ChannelBlock& b = block(round.first + i);
            const Scratch& scratch = threads_[static_cast<size_t>(worker)];
            const Columns columns{workspace_.at(scratch.columns), workspace_.at(scratch.column_gradient)};
            if (!direct_ && part == 0) this->load_rows(round.first + i, i, rows.load, rows.load_end);
            for (int64_t k = first_of(part); k < first_of(part + 1); ++k) {
                const Part all{k, 0, g_.tile(tiles.first + k).pixels()};
                if (depthwise_) {
                    T* sums = call_.grad_weight ? weight_sums(b.first, b) : nullptr;
                    run_depthwise(round, i, tiles.first, all, {true, wants_locations(), false}, sums, worker);
                    continue;
                }
                run_part(round, i, tiles.first, all, columns, true, worker);
                if (call_.grad_weight) weight_gradient(round, b, tiles.first, k, columns.values);
            }
            if (!direct_ && call_.grad_input && part + 1 == parts) {
                this->flush_rows(round.first + i, i, rows.flush, rows.flush_end);
            }
        };
        const auto next = [&](int64_t, int worker) {
            chains.next([&](int64_t i, int64_t part) { run(i, part, worker); });
        };
        team.loop(blocks * parts, next, [&](int64_t task) {
            const int64_t part = task / blocks, count = first_of(part + 1) - first_of(part);
            const int64_t pixels = count * g_.tile_rows * g_.tile_columns;
            const int64_t channels = block(round.first + task % blocks).channels;
            return channels * g_.taps * pixels * (2 * g_.group_outputs + 6 * g_.corners);
        });
    }

    // The gradient of the input first, by blocks or their stripes; what these leave uneven the many parts of tiles, of
    // which each has the other gradients of a block, make up for.
    template <class Team>
    void run_depthwise_finely(Team& team, const Round& round, const Tiles& tiles) {
        const int64_t blocks = round.last - round.first, stripes = std::max<int64_t>(1, stripes_);
        const int64_t scatters = call_.grad_input ? blocks * stripes : 0;
        const bool rest = wants_locations() || call_.grad_weight;
        // Parts of a task: all of a tile where that leaves enough of them.
        const int64_t each = blocks * tiles.count >= 12 * threads() ? weight_parts : 1, per_tile = weight_parts / each;
        const int64_t parts = rest ? blocks * tiles.count * per_tile : 0;
        const auto block_of = [&](int64_t task) { return task < scatters ? task % blocks : (task - scatters) % blocks; };
        const auto part_of = [&](int64_t task) {
            const int64_t number = (task - scatters) / blocks;
            return weight_part(tiles.first, number / per_tile, number % per_tile * each, each);
        };
        const auto run = [&](int64_t task, int worker) {
            const int64_t i = block_of(task);
            if (task < scatters) {
                for (int64_t k = 0; k < tiles.count; ++k) {
                    const Part all{k, 0, g_.tile(tiles.first + k).pixels()};
                    if (stripes_) this->scatter(round, i, tiles.first, k, task / blocks, {}, worker);
                    if (!stripes_) run_depthwise(round, i, tiles.first, all, {true, false, false}, nullptr, worker);
                }
                return;
            }
            const Part part = part_of(task);
            if (!part.count) return;
            T* sums = call_.grad_weight ? part_sums(i, part.tile, (task - scatters) / blocks % per_tile * each) : nullptr;
            if (sums) std::fill_n(sums, each * packed_block_, T(0));
            run_depthwise(round, i, tiles.first, part, {false, wants_locations(), true}, sums, worker);
        };
        team.loop(scatters + parts, run, [&](int64_t task) {
            const int64_t samples = block(round.first + block_of(task)).channels * g_.taps;
            if (task >= scatters) return samples * part_of(task).count * 4 * g_.corners;
            return samples * tiles.count * g_.tile_rows * g_.tile_columns * 4 * g_.corners / stripes;
        });
        if (!call_.grad_weight) return;
        team.loop(blocks * g_.taps, [&](int64_t task) {
            this->add_weight_parts(round, task % blocks, tiles.first, tiles.count, task / blocks);
        }, [&](int64_t task) { return block(round.first + task % blocks).channels * tiles.count * weight_parts; });
    }

    template <class Team>
    void run_finely(Team& team, const Round& round, const Tiles& tiles, const Rows& rows) {
        const int64_t blocks = round.last - round.first;
        if (!direct_) {
            team.loop(blocks * (rows.load_end - rows.load), [&](int64_t task) {
                const int64_t i = task % blocks, row = rows.load + task / blocks;
                this->load_rows(round.first + i, i, row, row + 1);
            }, [&](int64_t) { return row_cost(); });
        }
        if (depthwise_) run_depthwise_finely(team, round, tiles);
        for (int64_t k = 0; !depthwise_ && k < tiles.count; k += chunk_tiles_) {
            for (int64_t i = 0; i < blocks; i += chunk_blocks_) {
                const Chunk chunk{i, std::min(chunk_blocks_, blocks - i), k, std::min(chunk_tiles_, tiles.count - k)};
                make_columns(team, round, tiles.first, chunk);
                use_columns(team, round, tiles.first, chunk);
            }
        }
        if (!direct_ && call_.grad_input) {
            team.loop(blocks * (rows.flush_end - rows.flush), [&](int64_t task) {
                const int64_t i = task % blocks, row = rows.flush + task / blocks;
                this->flush_rows(round.first + i, i, row, row + 1);
            }, [&](int64_t) { return row_cost(); });
        }
    }

    // Some blocks of a round and some tiles of a band.
    struct Chunk {
        int64_t block, blocks, tile, tiles;
    };

    Columns slot(const Chunk& chunk, int64_t i, int64_t k) const {
        const int64_t size = g_.room * columns_row_;
        T* const at = workspace_.at(kept_) + ((i - chunk.block) * chunk_tiles_ + k - chunk.tile) * 2 * size;
        return {at, at + size};
    }

    template <class Team>
    void make_columns(Team& team, const Round& round, int64_t first_tile, const Chunk& chunk) {
        const int64_t parts = std::clamp<int64_t>(ceil_div(12 * threads(), chunk.blocks * chunk.tiles), 1, 16);
        const auto part_of = [&](int64_t task) {
            const int64_t tile = chunk.tile + task / parts % chunk.tiles;
            const int64_t pixels = g_.tile(first_tile + tile).pixels();
            const int64_t size = round_up(ceil_div(pixels, parts), 2), first = task % parts * size;
            return Part{tile, first, std::clamp<int64_t>(pixels - first, 0, size)};
        };
        const auto block_of = [&](int64_t task) { return chunk.block + task / parts / chunk.tiles; };
        const auto make = [&](int64_t task, int worker) {
            const Part part = part_of(task);
            if (!part.count) return;
            Columns to = slot(chunk, block_of(task), part.tile);
            to.values += part.first * columns_row_;
            to.gradient += part.first * columns_row_;
            run_part(round, block_of(task), first_tile, part, to, false, worker);
        };
        team.loop(chunk.blocks * chunk.tiles * parts, make, [&](int64_t task) {
            const int64_t channels = block(round.first + block_of(task)).channels;
            return part_of(task).count * g_.taps * channels * (g_.group_outputs + 4 * g_.corners);
        });
    }

    // Of block i: a stripe of the input gradient, or, where `stripe` is negative, a run of the weight gradient.
    struct Use {
        int64_t i, stripe;
        WeightRun run;
    };

    std::vector<Use> uses(const Round& round, const Chunk& chunk) const {
        std::vector<Use> result;
        for (int64_t i = chunk.block; i < chunk.block + chunk.blocks && call_.grad_weight; ++i) {
            const ChannelBlock& b = block(round.first + i);
            const int64_t all = b.per_group * g_.taps, panel = gemm_.panel;
            for (int64_t group = 0; group < b.groups; ++group) {
                for (int64_t o = 0; o < g_.group_outputs; o += weight_outputs_) {
                    const int64_t rows = std::min(weight_outputs_, g_.group_outputs - o);
                    for (int64_t c = 0; c < all; c += panel) {
                        result.push_back({i, -1, {group, o, rows, c, std::min(panel, all - c)}});
                    }
                }
            }
        }
        for (int64_t task = 0; task < chunk.blocks * stripes_; ++task) {
            result.push_back({chunk.block + task / stripes_, task % stripes_, {}});
        }
        return result;
    }

    template <class Team>
    void use_columns(Team& team, const Round& round, int64_t first_tile, const Chunk& chunk) {
        const std::vector<Use> work = uses(round, chunk);
        const auto use = [&](int64_t task, int worker) {
            const Use& one = work[static_cast<size_t>(task)];
            const ChannelBlock& b = block(round.first + one.i);
            for (int64_t k = chunk.tile; k < chunk.tile + chunk.tiles; ++k) {
                const Columns columns = slot(chunk, one.i, k);
                if (one.stripe >= 0) {
                    this->scatter(round, one.i, first_tile, k, one.stripe, columns, worker);
                } else {
                    weight_gradient(round, b, one.run, first_tile, k, columns.values);
                }
            }
        };
        team.loop(static_cast<int64_t>(work.size()), use, [&](int64_t task) {
            const Use& one = work[static_cast<size_t>(task)];
            const int64_t pixels = chunk.tiles * g_.tile_rows * g_.tile_columns;
            const int64_t channels = block(round.first + one.i).channels;
            if (one.stripe >= 0) return pixels * g_.taps * g_.corners * channels * corner_cost / stripes_;
            return pixels * one.run.columns * one.run.outputs;
        });
    }

    static constexpr int64_t corner_cost = 8;         // multiplications of a channel that take as long as a corner
    static constexpr int64_t most_taps = 1 << 21;     // whose numbers fit the lists of corners
    static constexpr int64_t most_kept = 24 << 20;    // bytes of columns

    int64_t band_factor_ = 1, chunk_blocks_ = 0, chunk_tiles_ = 0, weight_outputs_ = 0;
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
