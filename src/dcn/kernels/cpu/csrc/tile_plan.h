// Reads the offsets and masks of a tile and plans its samples: one per thread.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "deform_conv.h"
#include "deform_conv_kernels.h"
#include "workspace.h"

namespace dcn {

inline const void* element_at(const void* tensor, int64_t dtype, int64_t index) {
    const int64_t bytes = dtype == dtype_f64 ? 8 : dtype == dtype_f32 ? 4 : 2;
    return static_cast<const char*>(tensor) + index * bytes;
}

inline void* element_at(void* tensor, int64_t dtype, int64_t index) {
    return const_cast<void*>(element_at(static_cast<const void*>(tensor), dtype, index));
}

// Memory of one SamplingPlan.
template <class T>
struct PlanRoom {
    Room<int32_t> index;
    Room<T> weight, fraction, mask;

    void plan(Workspace& workspace, const Geometry& g, bool backward) {
        index = workspace.plan<int32_t>(g.corners * g.taps * g.room);
        weight = workspace.plan<T>(g.corners * g.taps * g.room);
        fraction = workspace.plan<T>(backward ? g.call.axes * g.taps * g.room : 0);
        mask = workspace.plan<T>(g.call.mask ? g.taps * g.room : 0);
    }

    SamplingPlan<T> at(const Workspace& workspace, const Geometry& g, int64_t pixels) const {
        return {workspace.at(index),
                workspace.at(weight),
                fraction.count ? workspace.at(fraction) : nullptr,
                mask.count ? workspace.at(mask) : nullptr,
                g.taps,
                g.room,
                pixels,
                static_cast<int>(g.call.axes)};
    }
};

template <class T>
class TilePlanner {
   public:
    void plan(Workspace& workspace, const Geometry& g) {
        offset_ = workspace.plan<T>(g.taps * g.call.axes * g.room);
        location_ = workspace.plan<T>(3 * g.room);
        shift_ = workspace.plan<T>(3 * g.taps);
    }

    // `slots`: where the rows of the tile's image lie in the source.
    void run(const Workspace& workspace, const Geometry& g, const DeformConvKernels<T>& kernels, const Tile& tile,
             int64_t offset_group, const RowSlots& slots, bool fold_mask, SamplingPlan<T>& to) const {
        const DcnDeformConv& call = g.call;
        T* offset = workspace.at(offset_);
        read(g, kernels, tile, call.offset, call.offset_dtype, call.offset_step, offset_group * g.taps * call.axes,
             g.taps * call.axes, offset);
        if (call.mask) {
            read(g, kernels, tile, call.mask, call.mask_dtype, call.mask_step, offset_group * g.taps, g.taps, to.mask);
        }
        PlanRequest<T> request{};
        request.offset = offset;
        request.v1 = call.v1 != 0;
        request.fold_mask = fold_mask;
        request.slots = slots;
        fill(workspace, g, tile, request);
        kernels.plan(request, to);
    }

   private:
    static void read(const Geometry& g, const DeformConvKernels<T>& kernels, const Tile& tile, const void* tensor,
                     int64_t dtype, const int64_t* step, int64_t channel, int64_t channels, T* to) {
        constexpr int64_t own = sizeof(T) == 8 ? dtype_f64 : dtype_f32;
        for (int64_t i = 0; i < channels; ++i) {
            for (int64_t r = 0; r < tile.rows; ++r) {
                const int64_t pixel = (tile.row + r) * g.rest_out + tile.column;
                const int64_t from = tile.image * step[0] + (channel + i) * step[1] + pixel * step[2];
                if (dtype == own && step[2] == 1) {  // most calls; through the table they took a tenth of a depthwise
                    std::memcpy(to + i * g.room + r * tile.columns, static_cast<const T*>(tensor) + from,
                                static_cast<size_t>(tile.columns) * sizeof(T));
                    continue;
                }
                kernels.read(element_at(tensor, dtype, from), static_cast<int32_t>(dtype), step[2], tile.columns,
                             to + i * g.room + r * tile.columns);
            }
        }
    }

    void fill(const Workspace& workspace, const Geometry& g, const Tile& tile, PlanRequest<T>& request) const {
        const DcnDeformConv& call = g.call;
        const int axes = static_cast<int>(call.axes);
        for (int i = 0; i < axes; ++i) {
            const int axis = g.axis(i);
            T* location = workspace.at(location_) + i * g.room;
            T* shift = workspace.at(shift_) + i * g.taps;
            for (int64_t p = 0; p < tile.pixels(); ++p) {
                const int64_t row = tile.row + p / tile.columns, rest = tile.column + p % tile.columns;
                const int64_t at = axes == 3 ? (axis == 0   ? row
                                                : axis == 1 ? rest / call.out[2]
                                                            : rest % call.out[2])
                                             : (axis == 1 ? row : rest);
                location[p] = static_cast<T>(at * call.stride[axis] - call.padding[axis]);
            }
            for (int64_t t = 0; t < g.taps; ++t) shift[t] = static_cast<T>(g.shift[i][static_cast<size_t>(t)]);
            request.location[i] = location;
            request.tap_shift[i] = shift;
            request.size[i] = call.size[axis];
            request.step[i] = axis == 0 ? call.size[1] * call.size[2] : axis == 1 ? call.size[2] : 1;
        }
        if (axes == 1) {  // the only row of the image
            const RowSlots& slots = request.slots;
            request.slots = {slots.start - (slots.turn > 0 ? 0 : slots.ring), std::numeric_limits<int32_t>::max(), 0};
        }
    }

    Room<T> offset_, location_, shift_;
};

}  // namespace dcn
