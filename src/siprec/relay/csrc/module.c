/* siprec.relay._native: see relay.h, and _native.pyi for what it is in Python. */
#include "relay.h"

#include <errno.h>

#define VERSION 1 /* native.py uses no other; raised with what is offered to Python */

PyTypeObject *LoopType, *ChannelType, *CopiesType;

static const char *const words[REASONS] = {"stranger", "congested", "refused", "unreachable",
                                           "send",     "preroll",   "memory"};

Reason reason_of(int error)
{
    switch (error) {
    case EAGAIN:
        return REASON_CONGESTED;
    case ECONNREFUSED:
        return REASON_REFUSED;
    case ENETUNREACH:
    case EHOSTUNREACH:
        return REASON_UNREACHABLE;
    default:
        return REASON_SEND;
    }
}

PyObject *drops_to_python(const Drops *drops)
{
    PyObject *found = PyDict_New();
    for (int i = 0; found != NULL && i < REASONS; i++) {
        if (drops->count[i] == 0)
            continue;
        PyObject *count = PyLong_FromUnsignedLongLong(drops->count[i]);
        if (count == NULL || PyDict_SetItemString(found, words[i], count) < 0)
            Py_CLEAR(found);
        Py_XDECREF(count);
    }
    return found;
}

static int add(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (*type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, name, (PyObject *)*type); /* one reference more is ours, for good */
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "siprec.relay._native",
    .m_doc = "The packet loop of the relay in C.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (add(module, "Loop", &loop_spec, &LoopType) < 0 || add(module, "Channel", &channel_spec, &ChannelType) < 0 ||
        add(module, "Copies", &copies_spec, &CopiesType) < 0 || PyModule_AddIntConstant(module, "VERSION", VERSION) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
