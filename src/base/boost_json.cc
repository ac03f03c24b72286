// Boost.JSON, compiled here once: one shared library less to need, and sanitizers see inside it.
#include <boost/json/src.hpp>
