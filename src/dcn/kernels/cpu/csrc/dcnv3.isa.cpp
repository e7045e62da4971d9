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

// Lane i of the result is the sum of the lanes of rows[i].
template <class T, int S>
inline Vec<T> sums_of(Vec<T>* rows) {
#if defined(__clang__) || __GNUC__ >= 12
    if constexpr (S == lanes<T>) {
        return rows[0];
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < lanes<T> / S; i += 2) {
            exchange<S, T>(rows[i], rows[i + 1], std::make_integer_sequence<int, lanes<T>>{});
            rows[i / 2] = rows[i] + rows[i + 1];
        }
        return sums_of<T, 2 * S>(rows);
    }
#else
    Vec<T> result{};
    for (int i = 0; i < lanes<T>; ++i) {
        for (int j = 0; j < lanes<T>; ++j) result[i] += rows[i][j];
    }
    return result;
#endif
}

// Adds grad * value to the four rows of a tap.
template <class S, int B>
inline void dot_tap(const S* data, const Corners& corner, int64_t at, int32_t inside, int64_t channels, const S* grad,
                    Vec<Wide<S>>* rows) {
    constexpr int n = lanes<Wide<S>>;
    const auto add = [&](int64_t c, Vec<Wide<S>> g, auto&& value) {
        if (__builtin_expect(inside == 15, 1)) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) rows[i * B] += g * value(at + corner.at[i] + c);
        } else {
            for (int i = 0; i < 4; ++i) {
                if (inside >> i & 1) rows[i * B] += g * value(at + corner.at[i] + c);
            }
        }
    };
    int64_t c = 0;
    for (; c + n <= channels; c += n) {
        add(c, load_wide(grad + c), [&](int64_t place) { return load_wide(data + place); });
    }
    const int part = static_cast<int>(channels - c);
    if (part) add(c, load_wide_part(grad + c, part), [&](int64_t p) { return load_wide_part(data + p, part); });
}

template <class S>
void dots(const S* data, int64_t step, int64_t row, const DcnV3Taps<Wide<S>>& taps, int64_t tap, int64_t count,
          int64_t channels, const S* grad) {
    using T = Wide<S>;
    constexpr int n = lanes<T>, batch = n >= 4 ? n / 4 : 1, rows_used = 4 * batch;
    const Corners corner(step, row);
    for (int64_t first = 0; first < count; first += batch) {
        const int here = count - first < batch ? static_cast<int>(count - first) : batch;
        Vec<T> rows[rows_used] = {};
#pragma GCC unroll 4
        for (int t = 0; t < batch; ++t) {
            if (t >= here) break;
            const int64_t k = tap + first + t;
            if (taps.inside[k]) dot_tap<S, batch>(data, corner, taps.pixel[k] * step, taps.inside[k], channels, grad, rows + t);
        }
        T results[rows_used];
#pragma GCC unroll 2
        for (int r = 0; r < rows_used; r += n) store(results + r, sums_of<T, 1>(rows + r));
        for (int i = 0; i < 4; ++i) {
            for (int t = 0; t < here; ++t) taps.dot[i][tap + first + t] = results[i * batch + t];
        }
    }
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
