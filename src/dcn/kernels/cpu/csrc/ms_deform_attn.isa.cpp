// Rows of channels: weighted sums of them, their products with a gradient, and the way back.
#include <utility>

#include "ms_deform_attn_kernels.h"
#include "vec_wide.h"

namespace dcn {
namespace DCN_ISA {
namespace {

template <class S>
const S* at(const S* base, int64_t bytes) {
    // In whole numbers: the row that stands for "outside" is another object.
    return reinterpret_cast<const S*>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(bytes));
}

template <class S>
S* at(S* base, int64_t bytes) {
    return reinterpret_cast<S*>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(bytes));
}

// `Vectors` vectors of channels from `base` on stay in registers while all samples pass. Two sums per vector: one would
// wait for its own additions.
template <class S, class T, int Vectors>
void gather_run(T* out, const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count) {
    constexpr int n = lanes<T>;
    Vec<T> sum[Vectors] = {}, other[Vectors] = {};
    const int64_t* const starts[4] = {samples.row[0], samples.row[1], samples.row[2], samples.row[3]};
    const T* const weights[4] = {samples.weight[0], samples.weight[1], samples.weight[2], samples.weight[3]};
    for (int64_t i = first; i < first + count; ++i) {
        const S* const rows[4] = {at(base, starts[0][i]), at(base, starts[1][i]), at(base, starts[2][i]),
                                  at(base, starts[3][i])};
#pragma GCC unroll 2
        for (int pair = 0; pair < 4; pair += 2) {
            const Vec<T> left = splat(weights[pair][i]), right = splat(weights[pair + 1][i]);
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) {
                sum[v] += left * load_wide(rows[pair] + v * n);
                other[v] += right * load_wide(rows[pair + 1] + v * n);
            }
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(out + v * n, sum[v] + other[v]);
}

template <class S, class T>
void gather_rest(T* out, const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count, int rest) {
    Vec<T> sum = {}, other = {};
    for (int64_t i = first; i < first + count; ++i) {
        sum += splat(samples.weight[0][i]) * load_wide_part(at(base, samples.row[0][i]), rest);
        other += splat(samples.weight[1][i]) * load_wide_part(at(base, samples.row[1][i]), rest);
        sum += splat(samples.weight[2][i]) * load_wide_part(at(base, samples.row[2][i]), rest);
        other += splat(samples.weight[3][i]) * load_wide_part(at(base, samples.row[3][i]), rest);
    }
    store_part(out, sum + other, rest);
}

template <class S, class T>
void gather(T* out, const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count, int64_t channels) {
    constexpr int n = lanes<T>;
    int64_t c = 0;
    for (; c + 4 * n <= channels; c += 4 * n) gather_run<S, T, 4>(out + c, base + c, samples, first, count);
    for (; c + 2 * n <= channels; c += 2 * n) gather_run<S, T, 2>(out + c, base + c, samples, first, count);
    for (; c + n <= channels; c += n) gather_run<S, T, 1>(out + c, base + c, samples, first, count);
    if (c < channels) gather_rest<S, T>(out + c, base + c, samples, first, count, static_cast<int>(channels - c));
}

#if defined(__clang__) || __GNUC__ >= 12
// Lane i of the result is the sum of lanes 2i and 2i + 1 of each run of `Step` lanes of a, then of b, and so on.
template <class T, int... L>
Vec<T> add_neighbours(Vec<T> a, Vec<T> b, std::integer_sequence<int, L...>) {
    constexpr int n = lanes<T>;
    return __builtin_shufflevector(a, b, ((L & 1) ? n + L - 1 : L)...) +
           __builtin_shufflevector(a, b, ((L & 1) ? n + L : L + 1)...);
}

template <class T, int... L>
Vec<T> add_pairs(Vec<T> a, Vec<T> b, std::integer_sequence<int, L...>) {
    constexpr int n = lanes<T>;
    return __builtin_shufflevector(a, b, ((L & 2) ? n + L - 2 : L)...) +
           __builtin_shufflevector(a, b, ((L & 2) ? n + L : L + 2)...);
}

template <int S, class T, int... L>
Vec<T> fold(Vec<T> a, std::integer_sequence<int, L...>) {
    return a + __builtin_shufflevector(a, a, ((L + S) % lanes<T>)...);
}

// to[k] = sum of the lanes of rows[k]
template <class T>
void sums(const Vec<T>* rows, T* to) {
    constexpr int n = lanes<T>;
    if constexpr (n >= 4) {
        constexpr auto all = std::make_integer_sequence<int, n>{};
        Vec<T> total = add_pairs<T>(add_neighbours<T>(rows[0], rows[1], all), add_neighbours<T>(rows[2], rows[3], all), all);
        if constexpr (n >= 16) total = fold<8, T>(total, all);
        if constexpr (n >= 8) total = fold<4, T>(total, all);
        for (int k = 0; k < 4; ++k) to[k] = total[k];
    } else {
        for (int k = 0; k < 4; ++k) to[k] = rows[k][0] + rows[k][1];
    }
}
#else
template <class T>
void sums(const Vec<T>* rows, T* to) {
    for (int k = 0; k < 4; ++k) {
        T total = 0;
        for (int lane = 0; lane < lanes<T>; ++lane) total += rows[k][lane];
        to[k] = total;
    }
}
#endif

// Vectors > 0: exactly so many full vectors of channels.
template <class S, class T, int Vectors>
void dots_loop(const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count, const T* grad,
               int64_t channels) {
    constexpr int n = lanes<T>;
    const int64_t full = Vectors ? Vectors * n : channels / n * n;
    const int rest = static_cast<int>(channels - full);
    Vec<T> kept[Vectors ? Vectors : 1];
    for (int v = 0; v < Vectors; ++v) kept[v] = load(grad + v * n);
    for (int64_t i = first; i < first + count; ++i) {
        const S* const rows[4] = {at(base, samples.row[0][i]), at(base, samples.row[1][i]),
                                  at(base, samples.row[2][i]), at(base, samples.row[3][i])};
        Vec<T> total[4] = {};
        if constexpr (Vectors > 0) {
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v)
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) total[k] += load_wide(rows[k] + v * n) * kept[v];
        } else {
            for (int64_t c = 0; c < full; c += n) {
                const Vec<T> gradient = load(grad + c);
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) total[k] += load_wide(rows[k] + c) * gradient;
            }
            if (rest) {
                const Vec<T> gradient = load_part(grad + full, rest);
                for (int k = 0; k < 4; ++k) total[k] += load_wide_part(rows[k] + full, rest) * gradient;
            }
        }
        sums<T>(total, samples.dots + 4 * i);
    }
}

template <class T, int Vectors>
void scatter_loop(T* base, const AttnSamples<T>& samples, int64_t first, int64_t count, const T* grad,
                  int64_t channels) {
    constexpr int n = lanes<T>;
    const int64_t full = Vectors ? Vectors * n : channels / n * n;
    const int rest = static_cast<int>(channels - full);
    Vec<T> kept[Vectors ? Vectors : 1];
    for (int v = 0; v < Vectors; ++v) kept[v] = load(grad + v * n);
    for (int64_t i = first; i < first + count; ++i) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            T* const row = at(base, samples.row[k][i]);
            const Vec<T> weight = splat(samples.weight[k][i]);
            if constexpr (Vectors > 0) {
#pragma GCC unroll 4
                for (int v = 0; v < Vectors; ++v) store(row + v * n, load(row + v * n) + weight * kept[v]);
            } else {
                for (int64_t c = 0; c < full; c += n) store(row + c, load(row + c) + weight * load(grad + c));
                if (rest) {
                    const Vec<T> sum = load_part(row + full, rest) + weight * load_part(grad + full, rest);
                    store_part(row + full, sum, rest);
                }
            }
        }
    }
}

template <class S, class T>
void dots(const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count, const T* grad,
          int64_t channels) {
    constexpr int n = lanes<T>;
    if (channels == n) return dots_loop<S, T, 1>(base, samples, first, count, grad, channels);
    if (channels == 2 * n) return dots_loop<S, T, 2>(base, samples, first, count, grad, channels);
    if (channels == 4 * n) return dots_loop<S, T, 4>(base, samples, first, count, grad, channels);
    dots_loop<S, T, 0>(base, samples, first, count, grad, channels);
}

template <class T>
void scatter(T* base, const AttnSamples<T>& samples, int64_t first, int64_t count, const T* grad, int64_t channels) {
    constexpr int n = lanes<T>;
    if (channels == n) return scatter_loop<T, 1>(base, samples, first, count, grad, channels);
    if (channels == 2 * n) return scatter_loop<T, 2>(base, samples, first, count, grad, channels);
    if (channels == 4 * n) return scatter_loop<T, 4>(base, samples, first, count, grad, channels);
    scatter_loop<T, 0>(base, samples, first, count, grad, channels);
}

template <class S, class T>
constexpr AttnRows<S, T> rows() {
    return {gather<S, T>, dots<S, T>};
}

template <class T>
constexpr AttnGradients<T> gradients() {
    return {scatter<T>};
}

}  // namespace

const AttnTable& attn_table() {
    static const AttnTable table = {rows<float, float>(), rows<double, double>(), rows<Half, float>(),
                                    rows<BFloat, float>(), gradients<float>(),    gradients<double>()};
    return table;
}

}  // namespace DCN_ISA
}  // namespace dcn
