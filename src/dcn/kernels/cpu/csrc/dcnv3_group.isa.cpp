// The inner loops of DCNv3 and DCNv4 on a copy of one group's map between pixels of zeros: no corner needs a check.
#include <cstdint>

#include "dcnv3.h"
#include "dcnv3_fold.h"
#include "vec_runs.h"

namespace dcn::DCN_ISA {
namespace {

// The four weights of a tap, each in all lanes of a vector.
template <class T>
struct Weights {
    T of[4];

    explicit Weights(const T* from) { __builtin_memcpy(of, from, sizeof of); }
    template <int I>
    T in_all_lanes() const {
        return of[I];
    }
};

#if defined(__AVX512F__)
// One read and four shuffles: 5.3 cycles a tap instead of 6.3 for four reads. With a mask of ones, because GCC 12 warns
// of the intrinsics without one.
template <>
struct Weights<float> {
    __m512 four;

    explicit Weights(const float* from) : four(_mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(from))) {}
    template <int I>
    Vec<float> in_all_lanes() const {
        return (Vec<float>)_mm512_maskz_permute_ps(0xffff, four, I * 0x55);
    }
};
#endif

template <class S, int V>
void sum_run(const Wide<S>* map, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t locations, int64_t count,
             S* output, int64_t step, int part) {
    using T = Wide<S>;
    constexpr int vectors = V ? V : 1;
    const int64_t depth = taps.depth;
    const int32_t* pixel = taps.pixel;
    const T* weight = taps.weight;
    for (int64_t location = 0; location < locations; ++location, output += step) {
        Vec<T> upper[vectors] = {}, lower[vectors] = {};
        for (const int32_t* end = pixel + count; pixel < end; ++pixel, weight += 4) {
            const T* high = map + *pixel * depth;
            const T* low = high + row;
            const Weights<T> by(weight);
            const auto w0 = by.template in_all_lanes<0>(), w1 = by.template in_all_lanes<1>();
            const auto w2 = by.template in_all_lanes<2>(), w3 = by.template in_all_lanes<3>();
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) {
                upper[v] += w0 * read<V>(high, v, part);
                lower[v] += w2 * read<V>(low, v, part);
                upper[v] += w1 * read<V>(high + depth, v, part);
                lower[v] += w3 * read<V>(low + depth, v, part);
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) write<V>(output, v, upper[v] + lower[v], part);
    }
}

template <class S>
void sum(const Wide<S>* map, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t locations, int64_t count, S* output,
         int64_t step) {
    each_run<Wide<S>>(taps.depth, [&](auto vectors, int64_t c, int part) {
        sum_run<S, decltype(vectors)::value>(map + c, row, taps, locations, count, output + c, step, part);
    });
}

// The taps of all locations one after the other. `Vectors` > 0: exactly so many whole vectors of channels.
template <class S, int Vectors>
void dots_of(const Wide<S>* map, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t locations, int64_t count,
             const S* grad, int64_t step) {
    using T = Wide<S>;
    constexpr int n = lanes<T>;
    const int64_t depth = Vectors ? Vectors * n : taps.depth;
    const int part = static_cast<int>(depth % n);
    int64_t left = count, more = locations - 1;
    fold_all<T>(0, locations * count, taps.dot, [&](int64_t tap, Short<T>* of) {
        const T* high = map + taps.pixel[tap] * depth;
        const T* from[4] = {high, high + depth, high + row, high + row + depth};
        for (int i = 0; i < 4; ++i) of[i] = Short<T>{};
        for (int64_t c = 0; c + n <= depth; c += n) {
            const Shorts<T> g(grad + c);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) add_product(of[i], g, Shorts<T>(from[i] + c));
        }
        if (part) {
            const int64_t c = depth - part;
            const Shorts<T> g(load_wide_part(grad + c, part));
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) add_product(of[i], g, Shorts<T>(load_part(from[i] + c, part)));
        }
        if (--left) return;
        left = count;
        if (more-- > 0) grad += step;  // a tap beyond the last reads its gradient again
    });
}

template <class S>
void dots(const Wide<S>* map, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t locations, int64_t count,
          const S* grad, int64_t step) {
    constexpr int n = lanes<Wide<S>>;
    switch (taps.depth) {
        case n: return dots_of<S, 1>(map, row, taps, locations, count, grad, step);
        case 2 * n: return dots_of<S, 2>(map, row, taps, locations, count, grad, step);
        default: return dots_of<S, 0>(map, row, taps, locations, count, grad, step);
    }
}

template <class S, int V>
void scatter_run(Wide<S>* map, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t locations, int64_t count,
                 const S* grad, int64_t step, int part) {
    using T = Wide<S>;
    constexpr int vectors = V ? V : 1;
    const int64_t depth = taps.depth;
    const int32_t* pixel = taps.pixel;
    const T* weight = taps.weight;
    for (int64_t location = 0; location < locations; ++location, grad += step) {
        Vec<T> g[vectors];
        for (int v = 0; v < vectors; ++v) g[v] = read<V>(grad, v, part);
        const auto add = [&](T* to, T by) {
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) write<V>(to, v, read<V>(to, v, part) + by * g[v], part);
        };
        for (const int32_t* end = pixel + count; pixel < end; ++pixel, weight += 4) {
            T* high = map + *pixel * depth;
            T* low = high + row;
            add(high, weight[0]);
            add(high + depth, weight[1]);
            add(low, weight[2]);
            add(low + depth, weight[3]);
        }
    }
}

template <class S>
void scatter(Wide<S>* map, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t locations, int64_t count, const S* grad,
             int64_t step) {
    each_run<Wide<S>>(taps.depth, [&](auto vectors, int64_t c, int part) {
        scatter_run<S, decltype(vectors)::value>(map + c, row, taps, locations, count, grad + c, step, part);
    });
}

// Both rows of pixels, `from_step` and `to_step` elements apart.
template <class S, class From, class To>
void copy(const From* from, int64_t from_step, int64_t pixels, int64_t channels, To* to, int64_t to_step) {
    each_run<Wide<S>>(channels, [&](auto vectors, int64_t c, int part) {
        constexpr int V = decltype(vectors)::value;
        const From* in = from + c;
        To* out = to + c;
        for (int64_t pixel = 0; pixel < pixels; ++pixel, in += from_step, out += to_step) {
#pragma GCC unroll 4
            for (int v = 0; v < (V ? V : 1); ++v) write<V>(out, v, read<V>(in, v, part), part);
        }
    });
}

template <class S>
void take(const S* from, int64_t step, int64_t pixels, int64_t channels, Wide<S>* to) {
    copy<S>(from, step, pixels, channels, to, channels);
}

template <class S>
void put(const Wide<S>* from, int64_t pixels, int64_t channels, S* to, int64_t step) {
    copy<S>(from, channels, pixels, channels, to, step);
}

template <class S>
constexpr DcnV3GroupLoops<S, Wide<S>> loops() {
    return {sum<S>, dots<S>, scatter<S>, take<S>, put<S>};
}

}  // namespace

const DcnV3GroupTable& dcnv3_group_loops() {
    static const DcnV3GroupTable table = {loops<float>(), loops<double>(), loops<Half>(), loops<BFloat>()};
    return table;
}

}  // namespace dcn::DCN_ISA
