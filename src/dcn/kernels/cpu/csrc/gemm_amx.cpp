// Products of pairs of bfloat16 on AMX: tiles of 16 rows x 16 pairs times 16 pairs x 16 columns. Two by two of them are
// summed at once, so that four tiles are read for four products: 32 rows x 32 columns.
// The rules for *.isa.cpp files hold here too (isa.h): this file is compiled for AVX-512.
#include "gemm.h"

#if DCN_X86_AMX
#include <immintrin.h>

namespace dcn::amx {
namespace {

constexpr int side = 16, panel = 2 * side;
// Tile registers, which the intrinsics take as literals: 2 * i + j the sums of row i and column j, 4 + i rows of a, 6 + j
// columns of b.

// Sizes of the tile registers, as the processor reads them.
struct alignas(64) TileSizes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int index, int64_t row_count, int64_t row_words) {
        rows[index] = static_cast<uint8_t>(row_count);
        row_bytes[index] = static_cast<uint16_t>(4 * row_words);
    }
};
static_assert(sizeof(TileSizes) == 64);

// Some compilers do not know which memory the instructions of tiles read.
void compiler_fence() { __asm__ volatile("" ::: "memory"); }

// Rows, columns and pairs of a product of up to 2 x 2 tiles.
struct Shape {
    int64_t rows, columns, pairs;
    bool operator!=(const Shape& other) const {
        return rows != other.rows || columns != other.columns || pairs != other.pairs;
    }
};

// Tile registers of these sizes, from the first use to the end of the scope. Others may use them in between calls.
class Tiles {
   public:
    ~Tiles() {
        if (shape_ != Shape{0, 0, 0}) _tile_release();
    }

    void resize(const Shape& shape) {
        if (!(shape != shape_)) return;
        shape_ = shape;
        const int64_t rows[2] = {shape.rows < side ? shape.rows : side, shape.rows - side};
        const int64_t columns[2] = {shape.columns < side ? shape.columns : side, shape.columns - side};
        TileSizes sizes;
        for (int i = 0; i < 2; ++i) {
            if (rows[i] > 0) sizes.set(4 + i, rows[i], shape.pairs);
            if (columns[i] > 0) sizes.set(6 + i, shape.pairs, columns[i]);
            for (int j = 0; j < 2; ++j) {
                if (rows[i] > 0 && columns[j] > 0) sizes.set(2 * i + j, rows[i], columns[j]);
            }
        }
        // GCC 12 takes the first 8 bytes for all that is read.
        __asm__ volatile("" : : "r"(&sizes) : "memory");
        _tile_loadconfig(&sizes);
    }

   private:
    Shape shape_{0, 0, 0};
};

// What one product reads and writes. Steps in elements from row to row.
struct Operands {
    const uint32_t* a;
    int64_t a_row;
    const uint32_t* b;
    int64_t b_row;
    float* c;
    int64_t c_row;
};

// c (+)= a times b, `steps` times `pairs` pairs deep; TwoRows, TwoColumns: whether there are second tiles.
template <bool TwoRows, bool TwoColumns>
void block(const Operands& o, int64_t steps, int64_t pairs, bool accumulate) {
    const int64_t a_bytes = 4 * o.a_row, c_bytes = 4 * o.c_row, b_bytes = 4 * o.b_row;
    float* low = o.c + side * o.c_row;
    if (accumulate) {
        _tile_loadd(0, o.c, c_bytes);
        if constexpr (TwoColumns) _tile_loadd(1, o.c + side, c_bytes);
        if constexpr (TwoRows) _tile_loadd(2, low, c_bytes);
        if constexpr (TwoRows && TwoColumns) _tile_loadd(3, low + side, c_bytes);
    } else {
        _tile_zero(0);
        if constexpr (TwoColumns) _tile_zero(1);
        if constexpr (TwoRows) _tile_zero(2);
        if constexpr (TwoRows && TwoColumns) _tile_zero(3);
    }
    const uint32_t *a = o.a, *b = o.b;
    for (int64_t step = 0; step < steps; ++step) {
        _tile_loadd(6, b, b_bytes);
        _tile_loadd(4, a, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (TwoColumns) {
            _tile_loadd(7, b + side, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (TwoRows) {
            _tile_loadd(5, a + side * o.a_row, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
        }
        if constexpr (TwoRows && TwoColumns) _tile_dpbf16ps(3, 5, 7);
        a += pairs;
        b += pairs * o.b_row;
    }
    _tile_stored(0, o.c, c_bytes);
    if constexpr (TwoColumns) _tile_stored(1, o.c + side, c_bytes);
    if constexpr (TwoRows) _tile_stored(2, low, c_bytes);
    if constexpr (TwoRows && TwoColumns) _tile_stored(3, low + side, c_bytes);
}

void block(Tiles& tiles, const Shape& shape, const Operands& operands, int64_t steps, bool accumulate) {
    tiles.resize(shape);
    const bool two_rows = shape.rows > side, two_columns = shape.columns > side;
    const auto run = two_rows ? (two_columns ? block<true, true> : block<true, false>)
                              : (two_columns ? block<false, true> : block<false, false>);
    run(operands, steps, shape.pairs, accumulate);
}

void multiply(int64_t rows, int64_t columns, int64_t pairs, const uint32_t* a, int64_t a_row, const uint32_t* b,
              int64_t b_panel, int64_t b_row, float* c, int64_t c_row, bool accumulate) {
    compiler_fence();
    Tiles tiles;
    const int64_t whole = pairs / side, rest = pairs % side;
    for (int64_t j = 0; j < columns; j += panel) {
        const uint32_t* right = b + j / panel * b_panel;
        for (int64_t i = 0; i < rows; i += 2 * side) {
            Shape shape{rows - i < 2 * side ? rows - i : 2 * side, columns - j < panel ? columns - j : panel, side};
            const Operands operands{a + i * a_row, a_row, right, b_row, c + i * c_row + j, c_row};
            if (whole) block(tiles, shape, operands, whole, accumulate);
            if (!rest) continue;
            shape.pairs = rest;
            const int64_t done = whole * side;
            block(tiles, shape, {operands.a + done, a_row, right + done * b_row, b_row, operands.c, c_row}, 1,
                  accumulate || whole);
        }
    }
}

}  // namespace

const GemmPairs& gemm_pairs() {
    const GemmPairs& dots = avx512bf16::gemm_pairs();
    static const GemmPairs table{2 * side, multiply, dots.pack_outputs, dots.pair, dots.round_pairs};
    return table;
}

}  // namespace dcn::amx
#endif
