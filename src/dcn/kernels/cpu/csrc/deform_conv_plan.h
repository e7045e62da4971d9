// The entries of the table DeformConvKernels that deform_conv_plan.isa.cpp fills; for *.isa.cpp files only.
#pragma once

#include "deform_conv_kernels.h"

#ifndef DCN_ISA
#error "deform_conv_plan.h is for *.isa.cpp files only"
#endif

namespace dcn::DCN_ISA::planning {

template <class T>
void read(const void* from, int32_t dtype, int64_t step, int64_t count, T* to);
template <class T>
void write(const T* from, int64_t count, void* to, int32_t dtype, int64_t step, bool accumulate);
template <class T>
void row_range(const T* offset, int64_t count, T location, int64_t size, bool v1, int64_t* low, int64_t* high);
template <class T>
void plan(const PlanRequest<T>& request, const SamplingPlan<T>& plan);

}  // namespace dcn::DCN_ISA::planning
