// The parts of the Python module: what each file beside this one defines.
#pragma once

#include <pybind11/pybind11.h>

void define_core(pybind11::module_& m);     // windows and random numbers
void define_passes(pybind11::module_& m);   // the two passes, and the whole model for inference
void define_latents(pybind11::module_& m);  // what happens to the latents before and between them
void define_stream(pybind11::module_& m);   // StreamModel and Stream
