// What one call of deformable convolution is made of. Axes are always z, y, x; those a call does not have are of size
// 1.
#pragma once

#include <cstdint>
#include <vector>

#include "deform_conv_kernels.h"
#include "scalar_types.h"

// The struct of the C ABI, mirrored in deform_conv.py. N = batch, C = channels, O = outputs, G = offset_groups, K taps:
//   input                [N, C, *size], grad_input likewise         dtype
//   offset               [N, axes*G*K, *out], grad_offset likewise  offset_dtype; per group and tap one number per axis
//   mask                 [N, G*K, *out] or null, grad_mask likewise mask_dtype
//   weight, bias         [O, C/groups, *kernel], [O] or null        dtype, contiguous
//   output, grad_output  [N, O, *out]                               dtype
//   size .. dilation     per axis z, y, x; 1 (padding: 0) for an axis that the call does not have
//   *_step               elements from image to image, channel to channel, pixel to pixel
//   v1, threads          boundary rule "v1" (else "v2"); threads to use
// A null gradient is not needed. dtype: 0 float32, 1 float64, 2 float16, 3 bfloat16.
struct DcnDeformConv {
    const void *input, *offset, *mask, *weight, *bias, *grad_output;
    void *output, *grad_input, *grad_offset, *grad_weight, *grad_mask;
    int64_t batch, channels, outputs, groups, offset_groups, axes;
    int64_t size[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
    int64_t input_step[3], offset_step[3], mask_step[3], output_step[3];  // gradients: those of their tensors
    int64_t dtype, offset_dtype, mask_dtype, v1, threads;
};

namespace dcn {

// A rectangle of output locations of one image: rows along the first axis times a run of the flattened other axes.
struct Tile {
    int64_t image, row, rows, column, columns;
    int64_t pixels() const { return rows * columns; }
};

// Sizes of a call, flattened around the first axis of the image (y for 1-D and 2-D, z for 3-D): "rows".
struct Geometry {
    const DcnDeformConv& call;
    int64_t taps, corners;
    int64_t rows_in, rest_in, rows_out, rest_out;
    int64_t group_channels, group_outputs, offset_channels;
    int64_t tile_rows, tile_columns, row_strips, column_strips, room;
    std::vector<double> shift[3];  // [taps] per axis of the call: index of the tap * dilation

    // Tiles have up to `pixels` output pixels and `width` columns: by default 8 strips of 14 rows of the matrix product,
    // whose columns stay in the L2 cache.
    explicit Geometry(const DcnDeformConv& call, int64_t pixels = 112, int64_t width = 16, bool even = true);

    int64_t pixels_in() const { return rows_in * rest_in; }
    int64_t pixels_out() const { return rows_out * rest_out; }
    int64_t tile_lines() const { return call.batch * row_strips; }  // lines of tiles over all images
    int64_t tiles() const { return tile_lines() * column_strips; }
    Tile tile(int64_t index) const;
    int axis(int64_t i) const { return static_cast<int>(3 - call.axes + i); }  // i-th axis of the call among z, y, x
    int64_t tensor_bytes(bool backward) const;
};

// What one task of a forward pass computes: some rows of a tile, for a range of what its samples are used for (outputs,
// or channels of a depthwise convolution).
struct Piece {
    Tile tile;
    int64_t first, count;
};

// What a piece's range is: `count` elements, divided at multiples of `unit`. To sample a pixel costs as much as `samples`
// elements.
struct Range {
    int64_t count, unit, samples;
    int64_t cost(const Piece& piece) const { return piece.tile.pixels() * (piece.count + samples); }
};

// The tiles [first, first + tiles) as pieces that `threads` threads share evenly: the last tiles are cut as finely as
// that takes, to rows, to 5 columns, to units of the range.
std::vector<Piece> cut_tiles(const Geometry& geometry, int64_t first, int64_t tiles, int64_t threads,
                             const Range& range);

// A run of channels that is sampled and multiplied at once: part of one convolution group, or several whole groups.
struct ChannelBlock {
    int64_t first, channels;    // input channels
    int64_t group, groups;      // convolution groups
    int64_t per_group;          // channels of each group in this block
    int64_t start_in_group;
};

std::vector<ChannelBlock> channel_blocks(const Geometry& geometry, int64_t limit, bool depthwise);

// A part of a block whose channels share one convolution group and one offset group.
struct Segment {
    int64_t channel, channels;  // relative to the block
    int64_t offset_group;
    int64_t column, column_tap;  // location in a row of columns, which are ordered [group, tap, channel]
};

std::vector<Segment> segments(const Geometry& geometry, const ChannelBlock& block);

// Bands of lines of tiles, and the window of input rows (over the whole batch) that each of them needs.
struct Band {
    int64_t first, last;      // lines of tiles
    int64_t load_end;         // rows below this one have been brought into the window (or are not needed)
    int64_t low;              // rows below this one are needed no more
};

struct RowSchedule {
    std::vector<Band> bands;
    std::vector<unsigned char> live;  // of each row: whether it is ever in the window
    std::vector<int32_t> slot;        // of each row: its first pixel in the window; empty when the source is the input
    int64_t capacity = 0;             // rows of the window

    // Where the rows of an image that a band needs lie in the window; `first` is its first row over the whole batch.
    RowSlots slots(const Band& band, int64_t first, int64_t row_pixels) const;
};

// Input rows touched by each line of tiles: [low, high) over the whole batch, low >= high when none.
struct RowRanges {
    std::vector<int64_t> low, high;
};

RowRanges row_ranges(const Geometry& geometry);
RowRanges all_rows(const Geometry& geometry);

// Rows of the smallest window that can work.
int64_t smallest_window(const RowRanges& ranges);

// Groups lines into bands with a window of at most `capacity` rows and at most `lines` lines.
RowSchedule schedule(const Geometry& geometry, const RowRanges& ranges, int64_t capacity, int64_t lines);

// Whether every channel is a group of its own, with one output.
inline bool depthwise(const DcnDeformConv& call) {
    return call.groups == call.channels && call.groups == call.outputs;
}

void deform_conv_forward(const DcnDeformConv& call);
void deform_conv_depthwise(const DcnDeformConv& call);  // forward, one channel per group
void deform_conv_backward(const DcnDeformConv& call);

}  // namespace dcn
