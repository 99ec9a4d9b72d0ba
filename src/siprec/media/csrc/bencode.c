/* siprec.media._bencode: encoder and decoder of bencode in C; see _bencode.pyi for what they are in Python.

   Only what is well-formed and usual is done here. For all else both functions return None, and bencode.py does the
   work again: there is one place that says what an error is. Every length is checked against the octets that there
   are before it is used; the depth is bounded; time and memory are linear in the input. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#define VERSION 1
#define MAX_DEPTH 16
#define MAX_SIZE (256 * 1024)
#define MAX_LENGTH_DIGITS 7 /* more than MAX_SIZE has */
#define MAX_INTEGER_DIGITS 18 /* what a long long holds in any case */

typedef struct {
    const char *at, *end;
} Input;

static PyObject *read_value(Input *input, int depth);

/* The length of a string and the octets after it; NULL when it is not one. No exception is set. */
static const char *read_string(Input *input, Py_ssize_t *length)
{
    Py_ssize_t count = 0;
    const char *at = input->at;
    int digits = 0;
    while (at < input->end && *at >= '0' && *at <= '9') {
        if (++digits > MAX_LENGTH_DIGITS)
            return NULL;
        count = count * 10 + (*at++ - '0');
    }
    if (digits == 0 || at == input->end || *at != ':')
        return NULL;
    at++;
    if (count > input->end - at)
        return NULL;
    *length = count;
    input->at = at + count;
    return at;
}

static PyObject *read_integer(Input *input)
{
    const char *at = input->at + 1;
    int negative = at < input->end && *at == '-', digits = 0;
    long long number = 0;
    if (negative)
        at++;
    while (at < input->end && *at >= '0' && *at <= '9') {
        if (++digits > MAX_INTEGER_DIGITS)
            return NULL;
        number = number * 10 + (*at++ - '0');
    }
    if (digits == 0 || at == input->end || *at != 'e')
        return NULL;
    input->at = at + 1;
    return PyLong_FromLongLong(negative ? -number : number);
}

static PyObject *read_list(Input *input, int depth)
{
    PyObject *found = PyList_New(0);
    if (found == NULL)
        return NULL;
    input->at++;
    while (input->at < input->end && *input->at != 'e') {
        PyObject *value = read_value(input, depth);
        int failed = value == NULL || PyList_Append(found, value) < 0;
        Py_XDECREF(value);
        if (failed) {
            Py_DECREF(found);
            return NULL;
        }
    }
    if (input->at == input->end) {
        Py_DECREF(found);
        return NULL;
    }
    input->at++;
    return found;
}

static PyObject *read_dictionary(Input *input, int depth)
{
    PyObject *found = PyDict_New();
    if (found == NULL)
        return NULL;
    input->at++;
    while (input->at < input->end && *input->at != 'e') {
        Py_ssize_t length;
        const char *octets = read_string(input, &length);
        PyObject *key = octets != NULL ? PyUnicode_DecodeUTF8(octets, length, "surrogateescape") : NULL;
        PyObject *value = key != NULL ? read_value(input, depth) : NULL;
        int failed = value == NULL || PyDict_SetItem(found, key, value) < 0;
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (failed) {
            Py_DECREF(found);
            return NULL;
        }
    }
    if (input->at == input->end) {
        Py_DECREF(found);
        return NULL;
    }
    input->at++;
    return found;
}

/* NULL: not well-formed or not usual, or an exception is set. */
static PyObject *read_value(Input *input, int depth)
{
    if (input->at == input->end)
        return NULL;
    switch (*input->at) {
    case 'd':
        return depth < MAX_DEPTH ? read_dictionary(input, depth + 1) : NULL;
    case 'l':
        return depth < MAX_DEPTH ? read_list(input, depth + 1) : NULL;
    case 'i':
        return read_integer(input);
    default: {
        Py_ssize_t length;
        const char *octets = read_string(input, &length);
        return octets != NULL ? PyBytes_FromStringAndSize(octets, length) : NULL;
    }
    }
}

static PyObject *decode(PyObject *module, PyObject *argument)
{
    (void)module;
    char *octets;
    Py_ssize_t size;
    if (!PyBytes_Check(argument))
        Py_RETURN_NONE;
    if (PyBytes_AsStringAndSize(argument, &octets, &size) < 0)
        return NULL;
    if (size > MAX_SIZE)
        Py_RETURN_NONE;
    Input input = {octets, octets + size};
    PyObject *value = read_value(&input, 0);
    if (value != NULL && input.at == input.end)
        return value;
    Py_XDECREF(value);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

typedef struct {
    char *octets;
    Py_ssize_t size, room;
} Output;

static int put(Output *output, const char *octets, Py_ssize_t size)
{
    if (size > output->room - output->size) {
        Py_ssize_t room = (output->size + size) * 2;
        char *more = PyMem_Realloc(output->octets, (size_t)room);
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        output->octets = more;
        output->room = room;
    }
    memcpy(output->octets + output->size, octets, (size_t)size);
    output->size += size;
    return 0;
}

static int put_string(Output *output, const char *octets, Py_ssize_t size)
{
    char head[24];
    int length = PyOS_snprintf(head, sizeof head, "%zd:", size);
    return put(output, head, length) < 0 || put(output, octets, size) < 0 ? -1 : 0;
}

/* 0, or -1: not usual, or an exception is set. */
static int write_value(Output *output, PyObject *value, int depth)
{
    if (PyUnicode_Check(value)) {
        Py_ssize_t size;
        const char *octets = PyUnicode_AsUTF8AndSize(value, &size);
        if (octets != NULL)
            return put_string(output, octets, size);
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            PyErr_Clear(); /* surrogates */
        return -1;
    }
    if (PyBytes_Check(value))
        return put_string(output, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
    if (PyLong_Check(value)) {
        char text[32];
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow != 0 || (number == -1 && PyErr_Occurred()))
            return -1;
        return put(output, text, PyOS_snprintf(text, sizeof text, "i%llde", number));
    }
    if (depth >= MAX_DEPTH)
        return -1;
    if (PyDict_CheckExact(value)) {
        PyObject *key, *item;
        Py_ssize_t position = 0;
        if (put(output, "d", 1) < 0)
            return -1;
        while (PyDict_Next(value, &position, &key, &item)) {
            if (!PyUnicode_Check(key) && !PyBytes_Check(key))
                return -1;
            if (write_value(output, key, depth + 1) < 0 || write_value(output, item, depth + 1) < 0)
                return -1;
        }
        return put(output, "e", 1);
    }
    if (PyList_CheckExact(value) || PyTuple_CheckExact(value)) {
        if (put(output, "l", 1) < 0)
            return -1;
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); i++)
            if (write_value(output, PySequence_Fast_GET_ITEM(value, i), depth + 1) < 0)
                return -1;
        return put(output, "e", 1);
    }
    return -1;
}

static PyObject *encode(PyObject *module, PyObject *value)
{
    (void)module;
    Output output = {NULL, 0, 0};
    PyObject *found = NULL;
    if (write_value(&output, value, 0) == 0)
        found = PyBytes_FromStringAndSize(output.octets, output.size);
    PyMem_Free(output.octets);
    if (found != NULL || PyErr_Occurred())
        return found;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_O, "The value that the octets hold; None: see there."},
    {"encode", encode, METH_O, "The value as octets; None: see there."},
    {NULL, NULL, 0, NULL},
};

static int set_up(PyObject *module)
{
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, set_up}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "siprec.media._bencode",
    .m_doc = "Bencode in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__bencode(void)
{
    return PyModuleDef_Init(&definition);
}
