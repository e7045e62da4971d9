// Multi-scale deformable attention: what a call hands over. Mirrors _Call in kernels/cpu/ms_deform_attn.py.
#pragma once

#include <cstdint>

struct DcnMsDeformAttn {
    const void* value;        // [N, S, M, D]
    const int64_t* shapes;    // [L, 2] height, width; the caller has checked that the levels lie within S
    const int64_t* starts;    // [L]
    const void* locations;    // [N, Q, M, L, P, 2] x, y
    const void* weights;      // [N, Q, M, L, P]
    const void* grad_output;  // [N, Q, M * D]
    void* output;             // [N, Q, M * D]
    void* grad_value;         // gradients like their tensors, or null where not wanted; all are written whole
    void* grad_locations;
    void* grad_weights;
    int64_t batch, pixels, heads, channels, queries, levels, points;  // N, S, M, D, Q, L, P
    int64_t dtype, location_dtype, weight_dtype, threads;
};
