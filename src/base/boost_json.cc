// Boost.JSON, compiled: Debian 12 has no library of it, so this one translation unit holds its definitions.
#include <boost/json/src.hpp>
