// Sums over the channels of a group: the inner loops of DCNv3 and DCNv4.
#include "dcnv3.h"

#include "vec_wide.h"

namespace dcn::DCN_ISA {
namespace {

// Where the four corners lie relative to the first.
struct Corners {
    int64_t at[4];
    Corners(int64_t step, int64_t row) : at{0, step, row, row + step} {}
};

// One run of channels of all taps: `V` whole vectors or, where V is 0, the first `part` lanes of one.
template <class S, int V>
inline void sum_run(const S* data, const Corners& corner, int64_t step, const DcnV3Taps<Wide<S>>& taps, int64_t tap,
                    int64_t count, int part, S* output) {
    using T = Wide<S>;
    constexpr int n = lanes<T>, vectors = V ? V : 1;
    const auto value = [&](int64_t at, int v) {
        if constexpr (V != 0) {
            return load_wide(data + at + v * n);
        } else {
            return load_wide_part(data + at, part);
        }
    };
    Vec<T> upper[vectors] = {}, lower[vectors] = {};
    for (int64_t k = tap; k < tap + count; ++k) {
        const int32_t inside = taps.inside[k];
        const int64_t at = taps.pixel[k] * step;
        if (__builtin_expect(inside == 15, 1)) {
            const T w0 = taps.weight[0][k], w1 = taps.weight[1][k], w2 = taps.weight[2][k], w3 = taps.weight[3][k];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) {
                upper[v] += w0 * value(at, v);
                lower[v] += w2 * value(at + corner.at[2], v);
                upper[v] += w1 * value(at + corner.at[1], v);
                lower[v] += w3 * value(at + corner.at[3], v);
            }
        } else if (inside) {
            for (int c = 0; c < 4; ++c) {
                if (!(inside >> c & 1)) continue;
                const T weight = taps.weight[c][k];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v) upper[v] += weight * value(at + corner.at[c], v);
            }
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store_narrow(output + v * n, upper[v] + lower[v], V ? n : part);
}

template <class S>
void sum(const S* data, int64_t step, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
         int64_t channels, S* output) {
    constexpr int n = lanes<Wide<S>>;
    const Corners corner(step, row);
    int64_t c = 0;
    for (; c + 4 * n <= channels; c += 4 * n) sum_run<S, 4>(data + c, corner, step, taps, tap, count, 0, output + c);
    for (; c + 2 * n <= channels; c += 2 * n) sum_run<S, 2>(data + c, corner, step, taps, tap, count, 0, output + c);
    for (; c + n <= channels; c += n) sum_run<S, 1>(data + c, corner, step, taps, tap, count, 0, output + c);
    const int part = static_cast<int>(channels - c);
    if (part) sum_run<S, 0>(data + c, corner, step, taps, tap, count, part, output + c);
}

// Half of the lanes of each: lane L is a[L] + a[L + S] where bit S of L is clear and b[L - S] + b[L] where it is set.
template <int S, class T>
inline Vec<T> fold(Vec<T> a, Vec<T> b) {
#if defined(__clang__) || __GNUC__ >= 12
    exchange<S, T>(a, b, std::make_integer_sequence<int, lanes<T>>{});
    return a + b;
#else
    Vec<T> result{};
    for (int lane = 0; lane < lanes<T>; ++lane) {
        result[lane] = lane & S ? b[lane - S] + b[lane] : a[lane] + a[lane + S];
    }
    return result;
#endif
}

// Sums over channels of grad * value at the four corners of a tap, not yet over all lanes.
template <class S>
struct Products {
    Vec<Wide<S>> of[4] = {};

    void add(const S* data, const Corners& corner, int64_t at, int32_t inside, int64_t channels, const S* grad) {
        constexpr int n = lanes<Wide<S>>;
        int64_t c = 0;
        for (; c + n <= channels; c += n) {
            const Vec<Wide<S>> g = load_wide(grad + c);
            if (__builtin_expect(inside == 15, 1)) {
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) of[i] += g * load_wide(data + at + corner.at[i] + c);
            } else {
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    if (inside >> i & 1) of[i] += g * load_wide(data + at + corner.at[i] + c);
                }
            }
        }
        const int part = static_cast<int>(channels - c);
        if (!part) return;
        const Vec<Wide<S>> g = load_wide_part(grad + c, part);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            if (inside >> i & 1) of[i] += g * load_wide_part(data + at + corner.at[i] + c, part);
        }
    }
};

// Reads the taps from `tap` on, writes dot[tap][corner] of as many as fit a vector.
template <class S>
struct Dots {
    using T = Wide<S>;
    static constexpr int n = lanes<T>;
    const S* data;
    const Corners& corner;
    int64_t step;
    const DcnV3Taps<T>& taps;
    int64_t end, channels;
    const S* grad;

    Products<S> products(int64_t k) const {
        Products<S> result;
        if (k < end && taps.inside[k]) result.add(data, corner, taps.pixel[k] * step, taps.inside[k], channels, grad);
        return result;
    }

    // Lane L: of tap L / 4 and corner L % 4, summed over the lanes whose bits from S on agree with those of L.
    template <int S_>
    Vec<T> partial(int64_t k) const {
        if constexpr (S_ == 4) {
            const Products<S> p = products(k);
            return fold<2, T>(fold<1, T>(p.of[0], p.of[1]), fold<1, T>(p.of[2], p.of[3]));
        } else {
            const Vec<T> low = partial<S_ / 2>(k);
            return fold<S_ / 2, T>(low, partial<S_ / 2>(k + S_ / 8));
        }
    }

    void all(int64_t tap) const {
        if constexpr (n >= 4) {
            for (int64_t k = tap; k < end; k += n / 4) store(taps.dot + 4 * k, partial<n>(k));
        } else {
            for (int64_t k = tap; k < end; ++k) {
                const Products<S> p = products(k);
                store(taps.dot + 4 * k, fold<1, T>(p.of[0], p.of[1]));
                store(taps.dot + 4 * k + 2, fold<1, T>(p.of[2], p.of[3]));
            }
        }
    }
};

template <class S>
void dots(const S* data, int64_t step, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
          int64_t channels, const S* grad) {
    const Corners corner(step, row);
    Dots<S>{data, corner, step, taps, tap + count, channels, grad}.all(tap);
}

template <class S, int V>
inline void scatter_run(Wide<S>* data, const Corners& corner, int64_t step, const DcnV3Taps<Wide<S>>& taps,
                        int64_t tap, int64_t count, int part, const S* grad) {
    using T = Wide<S>;
    constexpr int n = lanes<T>, vectors = V ? V : 1;
    Vec<T> g[vectors];
    for (int v = 0; v < vectors; ++v) {
        if constexpr (V != 0) {
            g[v] = load_wide(grad + v * n);
        } else {
            g[v] = load_wide_part(grad, part);
        }
    }
    const auto add = [&](T* to, T weight) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            if constexpr (V != 0) {
                store(to + v * n, load(to + v * n) + weight * g[v]);
            } else {
                store_part(to, load_part(to, part) + weight * g[v], part);
            }
        }
    };
    for (int64_t k = tap; k < tap + count; ++k) {
        const int32_t inside = taps.inside[k];
        const int64_t at = taps.pixel[k] * step;
        if (__builtin_expect(inside == 15, 1)) {
#pragma GCC unroll 4
            for (int c = 0; c < 4; ++c) add(data + at + corner.at[c], taps.weight[c][k]);
        } else if (inside) {
            for (int c = 0; c < 4; ++c) {
                if (inside >> c & 1) add(data + at + corner.at[c], taps.weight[c][k]);
            }
        }
    }
}

template <class S>
void scatter(Wide<S>* data, int64_t step, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
             int64_t channels, const S* grad) {
    constexpr int n = lanes<Wide<S>>;
    const Corners corner(step, row);
    int64_t c = 0;
    for (; c + 4 * n <= channels; c += 4 * n) scatter_run<S, 4>(data + c, corner, step, taps, tap, count, 0, grad + c);
    for (; c + 2 * n <= channels; c += 2 * n) scatter_run<S, 2>(data + c, corner, step, taps, tap, count, 0, grad + c);
    for (; c + n <= channels; c += n) scatter_run<S, 1>(data + c, corner, step, taps, tap, count, 0, grad + c);
    const int part = static_cast<int>(channels - c);
    if (part) scatter_run<S, 0>(data + c, corner, step, taps, tap, count, part, grad + c);
}

template <class S>
void put(const Wide<S>* from, int64_t pixels, int64_t channels, S* to, int64_t step) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (int64_t c = 0; c < channels; ++c) narrow(from[pixel * channels + c], to[pixel * step + c]);
    }
}

template <class S>
constexpr DcnV3Loops<S, Wide<S>> loops() {
    return {sum<S>, dots<S>, scatter<S>, put<S>};
}

}  // namespace

const DcnV3Table& dcnv3_loops() {
    static const DcnV3Table table = {loops<float>(), loops<double>(), loops<Half>(), loops<BFloat>()};
    return table;
}

}  // namespace dcn::DCN_ISA
