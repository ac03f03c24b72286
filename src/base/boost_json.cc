// Boost.JSON's compiled part: Debian 12 ships its sources in the headers only, so one translation unit of
// ours holds it.
#include <boost/json/src.hpp>
