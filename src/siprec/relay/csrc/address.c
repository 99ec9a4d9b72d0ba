/* Socket addresses, between what the kernel and what Python's socket module say. */
#include "relay.h"

#include <arpa/inet.h>
#include <string.h>

int address_from_python(PyObject *given, Address *out)
{
    const char *host;
    int port, flow = 0;
    unsigned scope = 0;
    memset(out, 0, sizeof *out);
    if (given == Py_None)
        return 0;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "an address is None or a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(given, "si|iI;an address is (host, port) or (host, port, flow, scope)", &host, &port, &flow,
                          &scope))
        return -1;
    if (port < 0 || port > 65535) {
        PyErr_SetString(PyExc_ValueError, "a port lies in 0..65535");
        return -1;
    }
    if (inet_pton(AF_INET, host, &out->of.four.sin_addr) == 1) {
        out->of.four.sin_family = AF_INET;
        out->of.four.sin_port = htons((uint16_t)port);
        out->length = sizeof out->of.four;
    } else if (inet_pton(AF_INET6, host, &out->of.six.sin6_addr) == 1) {
        out->of.six.sin6_family = AF_INET6;
        out->of.six.sin6_port = htons((uint16_t)port);
        out->of.six.sin6_scope_id = scope;
        out->length = sizeof out->of.six;
    } else {
        PyErr_Format(PyExc_ValueError, "%s is no address", host);
        return -1;
    }
    return 0;
}

PyObject *address_to_python(const Address *address)
{
    char text[INET6_ADDRSTRLEN];
    if (address->length == 0)
        Py_RETURN_NONE;
    if (address->of.any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &address->of.four.sin_addr, text, sizeof text);
        return Py_BuildValue("(si)", text, (int)ntohs(address->of.four.sin_port));
    }
    inet_ntop(AF_INET6, &address->of.six.sin6_addr, text, sizeof text);
    return Py_BuildValue("(siiI)", text, (int)ntohs(address->of.six.sin6_port), 0,
                         (unsigned)address->of.six.sin6_scope_id);
}

bool address_same_host(const Address *a, const Address *b)
{
    if (a->length == 0 || a->length != b->length || a->of.any.sa_family != b->of.any.sa_family)
        return false;
    if (a->of.any.sa_family == AF_INET)
        return a->of.four.sin_addr.s_addr == b->of.four.sin_addr.s_addr;
    return memcmp(&a->of.six.sin6_addr, &b->of.six.sin6_addr, sizeof a->of.six.sin6_addr) == 0 &&
           a->of.six.sin6_scope_id == b->of.six.sin6_scope_id;
}

bool address_same(const Address *a, const Address *b)
{
    if (!address_same_host(a, b))
        return false;
    return a->of.any.sa_family == AF_INET ? a->of.four.sin_port == b->of.four.sin_port
                                          : a->of.six.sin6_port == b->of.six.sin6_port;
}
