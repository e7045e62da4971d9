// The matrix product of the kernels: small tiles that lie in cache, multiplied by packed panels.
#pragma once

#include <cstdint>

#include "isa.h"
#include "scalar_types.h"

namespace dcn {

template <class T>
struct Gemm {
    int lanes;  // elements of one vector
    int panel;  // columns of one panel of b

    // c[i, j] = (accumulate ? c[i, j] : 0) + sum over p of a[i, p] * b[p, j],  i < rows, j < columns, p < depth, with
    // a[i, p] = a[i * a_row + p * a_depth], one of the two steps being 1, and
    // b[p, j] = b[(j / panel) * b_panel + p * b_row + j % panel], readable up to the next multiple of `lanes` columns.
    // Every element is summed in the order of p with one accumulator: the result does not depend on the tiling.
    void (*multiply)(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row, int64_t a_depth,
                     const T* b, int64_t b_panel, int64_t b_row, T* c, int64_t c_row, bool accumulate);
};

// Products of pairs of bfloat16, summed in float. `multiply` is null where the processor has no such instruction.
struct GemmPairs {
    int rows;  // products are fastest with a multiple of so many rows; 0 where `multiply` is null

    // c[i, j] = (accumulate ? c[i, j] : 0) + sum over p of a[i, p] . b[p, j]: pairs of bfloat16 in 32 bits. A panel has as
    // many columns as that of floats; a[i, p] = a[i * a_row + p] and b[p, j] = b[(j / panel) * b_panel + p * b_row + j % panel], readable as in Gemm.
    void (*multiply)(int64_t rows, int64_t columns, int64_t pairs, const uint32_t* a, int64_t a_row, const uint32_t* b,
                     int64_t b_panel, int64_t b_row, float* c, int64_t c_row, bool accumulate);
    // The right operand of columns * weight^T, of one panel: pairs of rows k = t * channels + c, each the bfloat16 numbers
    // weight[o * output_step + c * taps + t] of all o < outputs, zeros behind them. channels * taps is even.
    void (*pack_outputs)(const BFloat* weight, int64_t output_step, int64_t outputs, int64_t channels, int64_t taps,
                         uint32_t* to);
    // Rows p and p + 1 of a panel of floats that are bfloat16 numbers become one row of pairs, in place.
    void (*pair)(float* panel, int64_t rows);
    // Rows p and p + 1, each `step` after the one before, become one row of pairs in the place of p, rounded. `count` is
    // even; columns up to the next multiple of 16 are read and written.
    void (*round_pairs)(float* rows, int64_t count, int64_t step, int64_t columns);
};

DCN_DECLARE_ISA(const Gemm<float>&, gemm_float)
DCN_DECLARE_ISA(const Gemm<double>&, gemm_double)
DCN_DECLARE_ISA(const GemmPairs&, gemm_pairs)
namespace amx { const GemmPairs& gemm_pairs(); }

// The products of pairs on this processor: by AMX, else by the instruction set in use.
const GemmPairs& pair_products();

}  // namespace dcn
