#include "features.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace recommend {
namespace {

std::vector<std::string> Split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream left(text);
  for (std::string part; std::getline(left, part, at);) parts.push_back(part);
  return parts;
}

void ReadLines(const std::string& file, std::size_t columns,
               const std::function<void(const std::vector<std::string>&)>& take) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error(file + " cannot be read");
  std::size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const std::vector<std::string> cells = Split(line, '\t');
    try {
      if (cells.size() != columns) throw std::invalid_argument("it has " + std::to_string(cells.size()) + " columns");
      take(cells);
    } catch (const std::exception& error) {
      throw std::runtime_error(file + ":" + std::to_string(number) + " cannot be read: " + error.what());
    }
  }
}

Genres ReadGenres(const std::vector<std::string>& cells, std::size_t from) {
  Genres genres{};
  for (std::size_t genre = 0; genre < kGenres; ++genre) genres[genre] = std::stof(cells[from + genre]);
  return genres;
}

}  // namespace

Tables::Tables(const std::string& folder) {
  ReadLines(folder + "/users.tsv", 4 + kGenres, [this](const std::vector<std::string>& cells) {
    User user{std::stof(cells[1]), std::stof(cells[2]), ReadGenres(cells, 3), {}};
    for (const std::string& movie : Split(cells.back(), ',')) user.seen.insert(std::stoll(movie));
    users_.emplace(std::stoll(cells[0]), std::move(user));
  });
  ReadLines(folder + "/movies.tsv", 4 + kGenres, [this](const std::vector<std::string>& cells) {
    movies_.push_back(
        {std::stoll(cells[0]), std::stof(cells[1]), std::stof(cells[2]), ReadGenres(cells, 3), cells.back()});
  });
}

const User* Tables::FindUser(std::int64_t id) const {
  const auto found = users_.find(id);
  return found == users_.end() ? nullptr : &found->second;
}

std::vector<float> FeaturesOf(const User& user, const std::vector<const Movie*>& movies) {
  std::vector<float> rows;
  rows.reserve(movies.size() * kFeatures);
  for (const Movie* movie : movies) {
    rows.insert(rows.end(), movie->genres.begin(), movie->genres.end());
    for (std::size_t genre = 0; genre < kGenres; ++genre) {
      rows.push_back(movie->genres[genre] * user.affinity[genre]);
    }
    rows.insert(rows.end(), {user.mean, user.count, movie->mean, movie->age});
  }
  return rows;
}

}  // namespace recommend
