// Register-blocked matrix product. Rows are pixels (broadcast), columns are packed in vectors: with 32 registers 14
// rows x 2 vectors give 28 sums, 28 multiply-adds per 16 loads; with 16 registers 6 rows x 2 vectors.
#include "gemm.h"
#include "integers.h"
#include "vec_wide.h"

namespace dcn::DCN_ISA {
namespace {

constexpr int max_rows = vector_registers == 32 ? 14 : 6;
constexpr int vectors = 2;

template <class T>
using Micro = void (*)(int64_t depth, const T* a, int64_t a_step, const T* b, int64_t b_row, T* c, int64_t c_row,
                       bool accumulate, int last);

// Rows x NV vectors of c. RowRun: a[i, p] = a[i * a_step + p]; otherwise a[p * a_step + i]. `last`: valid lanes of
// the last vector.
template <class T, int Rows, int NV, bool RowRun>
void micro(int64_t depth, const T* a, int64_t a_step, const T* b, int64_t b_row, T* c, int64_t c_row, bool accumulate,
           int last) {
    constexpr int n = lanes<T>;
    constexpr int bases = (Rows + 2) / 3;
    Vec<T> sum[Rows][NV] = {};
    const T* base[bases];  // three rows share a base register: base, base + step, base + 2 * step
    for (int i = 0; i < bases; ++i) base[i] = a + 3 * i * a_step;
#pragma GCC unroll 2
    for (int64_t p = 0; p < depth; ++p) {
        Vec<T> column[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) column[j] = load(b + j * n);
#pragma GCC unroll 14
        for (int i = 0; i < Rows; ++i) {
            const T scalar = RowRun ? base[i / 3][(i % 3) * a_step + p] : a[i];
            const Vec<T> row = splat(scalar);
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) sum[i][j] += row * column[j];
        }
        if (!RowRun) a += a_step;
        b += b_row;
    }
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            T* to = c + i * c_row + j * n;
            if (j + 1 < NV || last == n) {
                store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
            } else {
                store_part(to, accumulate ? load_part(to, last) + sum[i][j] : sum[i][j], last);
            }
        }
    }
}

template <class T, bool RowRun, int... R>
Micro<T> pick(int64_t rows, bool two, std::integer_sequence<int, R...>) {
    static constexpr Micro<T> one_vector[] = {micro<T, R + 1, 1, RowRun>...};
    static constexpr Micro<T> two_vectors[] = {micro<T, R + 1, 2, RowRun>...};
    return (two ? two_vectors : one_vector)[rows - 1];
}

template <class T>
Micro<T> pick(int64_t rows, bool two, bool row_run) {
    constexpr auto all = std::make_integer_sequence<int, max_rows>{};
    return row_run ? pick<T, true>(rows, two, all) : pick<T, false>(rows, two, all);
}

template <class T>
void multiply(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b,
              int64_t b_panel, int64_t b_row, T* c, int64_t c_row, bool accumulate) {
    constexpr int n = lanes<T>;
    constexpr int panel = vectors * n;
    const bool row_run = a_depth == 1;
    const int64_t a_step = row_run ? a_row : a_depth;
    const int64_t strips = ceil_div(rows, max_rows);
    // Panels outside: one panel stays in L2 while all strips pass, so a large b is read once per call. With strips
    // outside it was read 8 times per tile and 512 outputs ran at 124 instead of 140 GFLOP/s.
    for (int64_t j = 0; j < columns; j += panel) {
        const int64_t width = columns - j < panel ? columns - j : panel;
        const bool two = width > n;
        const int last = static_cast<int>(two ? width - n : width);
        const T* b_panel_start = b + (j / panel) * b_panel;
        int64_t i = 0;
        for (int64_t strip = 0; strip < strips; ++strip) {
            const int64_t height = ceil_div(rows - i, strips - strip);  // strips of nearly equal height
            pick<T>(height, two, row_run)(depth, a + i * a_row, a_step, b_panel_start, b_row, c + i * c_row + j, c_row,
                                          accumulate, last);
            i += height;
        }
    }
}

#if defined(__AVX512BF16__)
constexpr int pair_panel = vectors * lanes<float>;

// Rows x NV vectors of c, see micro().
template <int Rows, int NV>
void micro_pairs(int64_t pairs, const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, float* c,
                 int64_t c_row, bool accumulate, int last) {
    constexpr int n = lanes<float>;
    constexpr int bases = (Rows + 2) / 3;
    __m512 sum[Rows][NV] = {};
    const uint32_t* base[bases];
    for (int i = 0; i < bases; ++i) base[i] = a + 3 * i * a_row;
#pragma GCC unroll 2
    for (int64_t p = 0; p < pairs; ++p) {
        __m512bh column[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) column[j] = (__m512bh)_mm512_loadu_si512(b + j * n);
#pragma GCC unroll 14
        for (int i = 0; i < Rows; ++i) {
            const __m512bh row = (__m512bh)_mm512_set1_epi32(static_cast<int>(base[i / 3][(i % 3) * a_row + p]));
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], row, column[j]);
        }
        b += b_row;
    }
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            float* to = c + i * c_row + j * n;
            const Vec<float> total = (Vec<float>)sum[i][j];
            if (j + 1 < NV || last == n) {
                store(to, accumulate ? load(to) + total : total);
            } else {
                store_part(to, accumulate ? load_part(to, last) + total : total, last);
            }
        }
    }
}

using MicroPairs = void (*)(int64_t pairs, const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, float* c,
                            int64_t c_row, bool accumulate, int last);

template <int... R>
MicroPairs pick_pairs(int64_t rows, bool two, std::integer_sequence<int, R...>) {
    static constexpr MicroPairs one_vector[] = {micro_pairs<R + 1, 1>...};
    static constexpr MicroPairs two_vectors[] = {micro_pairs<R + 1, 2>...};
    return (two ? two_vectors : one_vector)[rows - 1];
}

void multiply_pairs(int64_t rows, int64_t columns, int64_t pairs, const uint32_t* a, int64_t a_row, const uint32_t* b,
                    int64_t b_panel, int64_t b_row, float* c, int64_t c_row, bool accumulate) {
    constexpr int n = lanes<float>;
    const int64_t strips = ceil_div(rows, max_rows);
    for (int64_t j = 0; j < columns; j += pair_panel) {
        const int64_t width = columns - j < pair_panel ? columns - j : pair_panel;
        const bool two = width > n;
        const int last = static_cast<int>(two ? width - n : width);
        int64_t i = 0;
        for (int64_t strip = 0; strip < strips; ++strip) {
            const int64_t height = ceil_div(rows - i, strips - strip);
            pick_pairs(height, two, std::make_integer_sequence<int, max_rows>{})(
                pairs, a + i * a_row, a_row, b + (j / pair_panel) * b_panel, b_row, c + i * c_row + j, c_row, accumulate,
                last);
            i += height;
        }
    }
}

// A square of `count` pairs of rows and 16 outputs, of which `outputs` are there: for each output the pairs of first[i] and
// second[i], or, where `second` is null, those that lie side by side from `first` on.
__attribute__((noinline)) void pack_square(const BFloat* first, const BFloat* second, int64_t output_step,
                                           int64_t outputs, int count, uint32_t* to, int64_t to_step) {
    constexpr int n = lanes<uint32_t>;
    Vec<uint32_t> rows[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
        const int there = i < outputs ? count : 0;
        const BFloat* pair = first + i * output_step;
        if (second) {  // bfloat16 is the upper half of a float
            rows[i] = (Vec<uint32_t>)load_wide_part(pair, there) >> 16 |
                      (Vec<uint32_t>)load_wide_part(second + i * output_step, there);
        } else {
            rows[i] = load_part(reinterpret_cast<const uint32_t*>(pair), there);
        }
    }
    transpose<uint32_t>(rows);
    for (int i = 0; i < count; ++i) store(to + i * to_step, rows[i]);
}

void pack_pairs(const BFloat* weight, int64_t output_step, int64_t outputs, int64_t channels, int64_t taps,
                uint32_t* to) {
    constexpr int n = lanes<uint32_t>;
    const auto part = [](int64_t left) { return static_cast<int>(left < n ? left : n); };
    for (int64_t o = 0; o < pair_panel; o += n) {
        const BFloat* from = weight + o * output_step;
        if (taps == 1) {
            for (int64_t c = 0; c < channels; c += 2 * n) {
                pack_square(from + c, nullptr, output_step, outputs - o, part((channels - c) / 2),
                            to + c / 2 * pair_panel + o, pair_panel);
            }
        } else if (channels % 2 == 0) {
            for (int64_t c = 0; c < channels; c += 2) {
                for (int64_t t = 0; t < taps; t += n) {
                    pack_square(from + c * taps + t, from + (c + 1) * taps + t, output_step, outputs - o, part(taps - t),
                                to + (t * channels + c) / 2 * pair_panel + o, channels / 2 * pair_panel);
                }
            }
        } else {
            const auto bits = [&](int64_t k, int64_t i) -> uint32_t {
                return o + i < outputs ? from[i * output_step + k % channels * taps + k / channels].bits : 0;
            };
            for (int64_t k = 0; k < channels * taps; k += 2) {
                for (int64_t i = 0; i < n; ++i) to[k / 2 * pair_panel + o + i] = bits(k, i) | bits(k + 1, i) << 16;
            }
        }
    }
}

void pair_rows(float* panel, int64_t rows) {
    const auto* from = reinterpret_cast<const uint32_t*>(panel);
    auto* to = reinterpret_cast<uint32_t*>(panel);
    for (int64_t p = 0; p + 1 < rows; p += 2) {
        for (int j = 0; j < pair_panel; j += lanes<float>) {
            const Vec<uint32_t> first = load(from + p * pair_panel + j), second = load(from + (p + 1) * pair_panel + j);
            store(to + p / 2 * pair_panel + j, first >> 16 | second);
        }
    }
}

void round_pairs(float* rows, int64_t count, int64_t step, int64_t columns) {
    constexpr int n = lanes<float>;
    uint16_t order[2 * n];  // the two rows by turns
    for (int i = 0; i < 2 * n; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * n);
    const __m512i turns = _mm512_loadu_si512(order);
    for (int64_t p = 0; p < count; p += 2) {
        float* row = rows + p * step;
        for (int64_t j = 0; j < columns; j += n) {
            const auto both = (__m512i)_mm512_cvtne2ps_pbh((__m512)load(row + step + j), (__m512)load(row + j));
            _mm512_storeu_si512(row + j, _mm512_permutexvar_epi16(turns, both));
        }
    }
}
#endif

}  // namespace

const GemmPairs& gemm_pairs() {
#if defined(__AVX512BF16__)
    static constexpr GemmPairs table{max_rows, multiply_pairs, pack_pairs, pair_rows, round_pairs};
#else
    static constexpr GemmPairs table{0, nullptr, nullptr, nullptr, nullptr};
#endif
    return table;
}

const Gemm<float>& gemm_float() {
    static constexpr Gemm<float> table{lanes<float>, vectors * lanes<float>, multiply<float>};
    return table;
}

const Gemm<double>& gemm_double() {
    static constexpr Gemm<double> table{lanes<double>, vectors * lanes<double>, multiply<double>};
    return table;
}

}  // namespace dcn::DCN_ISA
