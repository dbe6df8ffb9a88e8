"""Forwarding tables that lie in maps: routes in, the words out that the C in compiler/services/router/fib.h reads."""
