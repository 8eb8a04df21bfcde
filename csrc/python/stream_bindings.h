// The streaming engine's part of the Python module.
#pragma once

#include <pybind11/pybind11.h>

// Defines StreamModel and Stream.
void define_stream(pybind11::module_& m);
