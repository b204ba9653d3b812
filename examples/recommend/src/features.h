// What is known of users and movies, from the tables that examples/recommend/features.py writes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace recommend {

constexpr std::size_t kGenres = 8;
constexpr std::size_t kFeatures = 2 * kGenres + 4;
using Genres = std::array<float, kGenres>;

struct User {
  float mean = 0;
  float count = 0;
  Genres affinity{};
  std::unordered_set<std::int64_t> seen;
};

struct Movie {
  std::int64_t id = 0;
  float mean = 0;
  float age = 0;
  Genres genres{};
  std::string title;
};

class Tables {
 public:
  // Throws std::runtime_error with file and line for what it cannot read.
  explicit Tables(const std::string& folder);

  // Null for a user who is not known.
  [[nodiscard]] const User* FindUser(std::int64_t id) const;
  [[nodiscard]] const std::vector<Movie>& movies() const { return movies_; }

 private:
  std::unordered_map<std::int64_t, User> users_;
  std::vector<Movie> movies_;
};

// Rows of kFeatures numbers, one for each of the movies.
std::vector<float> FeaturesOf(const User& user, const std::vector<const Movie*>& movies);

}  // namespace recommend
