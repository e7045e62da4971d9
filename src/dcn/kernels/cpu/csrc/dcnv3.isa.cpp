// Sums over the channels of a group: the inner loops of DCNv3 and DCNv4.
#include "dcnv3.h"

#include <cstdint>

#include "dcnv3_fold.h"
#include "vec_runs.h"

namespace dcn::DCN_ISA {
namespace {

// Where the corners of a tap lie in `data`, whose pixels are `step` and whose rows are `row` elements apart; corner i
// that does not count lies at `instead + i * apart`. Without a branch: on a map of 14 x 14 with offsets of 2 pixels every
// third tap was guessed wrong, which took longer than all sums. All four at once, as a vector of addresses.
template <class S>
class Corners {
   public:
    Corners(S* data, int64_t step, int64_t row, S* instead, int64_t apart)
        : bytes_(step * size), other_(four(instead)) {
        first_ = four(data) + Four{0, step * size, row * size, (row + step) * size};
        other_ += Four{0, apart * size, 2 * apart * size, 3 * apart * size};
        way_ = first_ - other_;
    }

    // The same for the channels from c on.
    Corners from(int64_t c) const {
        Corners moved = *this;
        moved.first_ += c * size;
        moved.other_ += c * size;
        return moved;
    }

    // Of a tap whose first corner is at `pixel`; with `Whole` every corner counts.
    template <bool Whole>
    void of(int32_t pixel, int32_t inside, S** corner) const {
        const int64_t bytes = pixel * bytes_;
        Four at;
        if constexpr (Whole) {
            at = first_ + bytes;
        } else {
            at = other_ + ((way_ + bytes) & counted[inside]);
        }
        __builtin_memcpy(corner, &at, sizeof at);
    }

   private:
    typedef int64_t Four __attribute__((vector_size(32)));
    static constexpr int64_t size = sizeof(S);

    static Four four(S* at) {
        const int64_t one = static_cast<int64_t>(reinterpret_cast<intptr_t>(at));
        return Four{one, one, one, one};
    }

    // Lane i of entry b: all bits where bit i of b is set.
    static constexpr Four counted[16] = {
        {0, 0, 0, 0},   {-1, 0, 0, 0},   {0, -1, 0, 0},   {-1, -1, 0, 0},  {0, 0, -1, 0},  {-1, 0, -1, 0},
        {0, -1, -1, 0}, {-1, -1, -1, 0}, {0, 0, 0, -1},   {-1, 0, 0, -1},  {0, -1, 0, -1}, {-1, -1, 0, -1},
        {0, 0, -1, -1}, {-1, 0, -1, -1}, {0, -1, -1, -1}, {-1, -1, -1, -1}};

    int64_t bytes_;
    Four first_, other_, way_;
};
static_assert(sizeof(void*) == 8, "addresses are lanes of 64 bits");

// Whether all corners of `count` taps count.
inline bool all_inside(const int32_t* inside, int64_t count) {
    int32_t all = 15;
    for (int64_t k = 0; k < count; ++k) all &= inside[k];
    return all == 15;
}

// One run of channels of all taps: `V` whole vectors or, where V is 0, the first `part` lanes of one.
template <class S, int V, bool Whole>
inline void sum_run(const Corners<const S> corners, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
                    int part, S* output) {
    using T = Wide<S>;
    constexpr int vectors = V ? V : 1;
    Vec<T> upper[vectors] = {}, lower[vectors] = {};
    const int32_t* pixel = taps.pixel;
    const int32_t* inside = taps.inside;
    const T* weight = taps.weight;
    for (int64_t k = tap; k < tap + count; ++k) {
        const S* from[4];
        corners.template of<Whole>(pixel[k], inside[k], from);
        const T w0 = weight[4 * k], w1 = weight[4 * k + 1], w2 = weight[4 * k + 2], w3 = weight[4 * k + 3];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            upper[v] += w0 * read<V>(from[0], v, part);
            lower[v] += w2 * read<V>(from[2], v, part);
            upper[v] += w1 * read<V>(from[1], v, part);
            lower[v] += w3 * read<V>(from[3], v, part);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) write<V>(output, v, upper[v] + lower[v], part);
}

template <class S, bool Whole>
void sum_runs(const Corners<const S>& corners, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
              int64_t channels, S* output) {
    each_run<Wide<S>>(channels, [&](auto vectors, int64_t c, int part) {
        sum_run<S, decltype(vectors)::value, Whole>(corners.from(c), taps, tap, count, part, output + c);
    });
}

template <class S>
void sum(const S* data, int64_t step, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
         int64_t channels, S* output) {
    const Corners<const S> corners(data, step, row, reinterpret_cast<const S*>(taps.zeros), 0);
    if (all_inside(taps.inside + tap, count)) {
        sum_runs<S, true>(corners, taps, tap, count, channels, output);
    } else {
        sum_runs<S, false>(corners, taps, tap, count, channels, output);
    }
}

// Sums over channels of grad * value at the four corners of the taps from `tap` on.
template <class S, bool Whole>
void dots_runs(const Corners<const S>& corners, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t end,
               int64_t channels, const S* grad) {
    using T = Wide<S>;
    constexpr int n = lanes<T>;
    fold_all<T>(tap, end, taps.dot, [&](int64_t k, Short<T>* of) {
        for (int i = 0; i < 4; ++i) of[i] = Short<T>{};
        if (k >= end) return;
        const S* from[4];
        corners.template of<Whole>(taps.pixel[k], taps.inside[k], from);
        int64_t c = 0;
        for (; c + n <= channels; c += n) {
            const Shorts<T> g(grad + c);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) add_product(of[i], g, Shorts<T>(from[i] + c));
        }
        const int part = static_cast<int>(channels - c);
        if (!part) return;
        const Shorts<T> g(load_wide_part(grad + c, part));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) add_product(of[i], g, Shorts<T>(load_wide_part(from[i] + c, part)));
    });
}

template <class S>
void dots(const S* data, int64_t step, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
          int64_t channels, const S* grad) {
    const Corners<const S> corners(data, step, row, reinterpret_cast<const S*>(taps.zeros), 0);
    if (all_inside(taps.inside + tap, count)) {
        dots_runs<S, true>(corners, taps, tap, tap + count, channels, grad);
    } else {
        dots_runs<S, false>(corners, taps, tap, tap + count, channels, grad);
    }
}

template <class S, int V, bool Whole>
inline void scatter_run(const Corners<Wide<S>> corners, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
                        int part, const S* grad) {
    using T = Wide<S>;
    constexpr int vectors = V ? V : 1;
    Vec<T> g[vectors];
    for (int v = 0; v < vectors; ++v) g[v] = read<V>(grad, v, part);
    const auto add = [&](T* to, T weight) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) write<V>(to, v, read<V>(to, v, part) + weight * g[v], part);
    };
    for (int64_t k = tap; k < tap + count; ++k) {
        // Four additions nobody reads take longer than a wrong guess here; where values are only read, not.
        if (!Whole && !taps.inside[k]) continue;
        T* to[4];
        corners.template of<Whole>(taps.pixel[k], taps.inside[k], to);
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) add(to[c], taps.weight[4 * k + c]);
    }
}

template <class S, bool Whole>
void scatter_runs(const Corners<Wide<S>>& corners, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
                  int64_t channels, const S* grad) {
    each_run<Wide<S>>(channels, [&](auto vectors, int64_t c, int part) {
        scatter_run<S, decltype(vectors)::value, Whole>(corners.from(c), taps, tap, count, part, grad + c);
    });
}

template <class S>
void scatter(Wide<S>* data, int64_t step, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
             int64_t channels, const S* grad) {
    // A corner that does not count has a place of its own: writing all to one would wait for each before.
    const Corners<Wide<S>> corners(data, step, row, taps.waste, taps.depth);
    if (all_inside(taps.inside + tap, count)) {
        scatter_runs<S, true>(corners, taps, tap, count, channels, grad);
    } else {
        scatter_runs<S, false>(corners, taps, tap, count, channels, grad);
    }
}

template <class S>
constexpr DcnV3Loops<S, Wide<S>> loops() {
    return {sum<S>, dots<S>, scatter<S>};
}

}  // namespace

const DcnV3LoopTable& dcnv3_loops() {
    static const DcnV3LoopTable table = {loops<float>(), loops<double>(), loops<Half>(), loops<BFloat>()};
    return table;
}

}  // namespace dcn::DCN_ISA
