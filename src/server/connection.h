// One client connection: reads requests one after the other, answers each before it reads the next (so
// pipelining is safe).
#pragma once

#include <boost/asio.hpp>

#include "server/server.h"

namespace bloomery {

// Serves the connection until either side ends it.
boost::asio::awaitable<void> ServeConnection(Server& server, boost::asio::ip::tcp::socket socket);

// The answer of a connection too many.
boost::asio::awaitable<void> RefuseConnection(boost::asio::ip::tcp::socket socket);

}  // namespace bloomery
