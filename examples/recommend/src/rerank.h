// The best movies, but not all of one kind.
#pragma once

#include <cstddef>
#include <vector>

#include "features.h"

namespace recommend {

// Indices of at most `count` of the movies, the best first. Each next one is that with the most stars, less `diversity`
// times its likeness (shared genres of all that either has) to the most alike of those chosen before it.
std::vector<std::size_t> Rerank(const std::vector<const Movie*>& movies, const float* stars, std::size_t count,
                                float diversity);

}  // namespace recommend
