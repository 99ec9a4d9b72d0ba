/* siprec.sip._scan: the pass over the head of a SIP message in C; see _scan.pyi for what it is in Python.

   Only heads as nearly all are written are taken. For all else the answer is None, and the thorough reader in message.py
   does the work: there is one place that says what an error is. What is taken reads as the thorough reader would read it.
   All checks come first, on the octets, each of which is looked at a few times at most; objects are made
   when nothing can be odd any more. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#define VERSION 1
#define MAX_LINE 16384 /* octets of a whole head */
#define MAX_LINES 64
#define MAX_NAME 40
#define MAX_HOST 255
#define TABLE 256 /* a power of two, well above the number of names */

/* The first ones have a meaning here; all but Via may occur once only. */
enum { VIA, FROM, TO, CALL_ID, CSEQ, MAX_FORWARDS, CONTENT_LENGTH, CONTENT_TYPE, EXPIRES, MIN_EXPIRES, SINGLE };

static const char *const NAMES[] = {
    "via", "from", "to", "call-id", "cseq", "max-forwards", "content-length", "content-type", "expires", "min-expires",
    "accept", "accept-contact", "accept-encoding", "accept-language", "alert-info", "allow", "allow-events",
    "answer-mode", "authentication-info", "authorization", "call-info", "contact", "content-disposition",
    "content-encoding", "content-id", "content-language", "content-transfer-encoding", "date", "diversion",
    "error-info", "event", "feature-caps", "flow-timer", "geolocation", "history-info", "identity", "identity-info",
    "in-reply-to", "info-package", "join", "max-breadth", "mime-version", "min-se", "organization",
    "p-access-network-info", "p-asserted-identity", "p-asserted-service", "p-called-party-id", "p-charging-vector",
    "p-early-media", "p-preferred-identity", "path", "priority", "privacy", "proxy-authenticate",
    "proxy-authorization", "proxy-require", "rack", "reason", "record-route", "recv-info", "refer-sub", "refer-to",
    "referred-by", "reject-contact", "remote-party-id", "replaces", "reply-to", "request-disposition", "require",
    "resource-priority", "retry-after", "route", "rseq", "security-client", "security-server", "security-verify",
    "server", "service-route", "session-expires", "session-id", "sip-etag", "sip-if-match", "subject",
    "subscription-state", "supported", "target-dialog", "timestamp", "unsupported", "user-agent", "warning",
    "www-authenticate", "x-call-id",
};
#define COUNT ((int)(sizeof NAMES / sizeof NAMES[0]))

static const struct {
    char letter;
    const char *name;
} COMPACT[] = {
    {'a', "accept-contact"}, {'b', "referred-by"}, {'c', "content-type"}, {'d', "request-disposition"},
    {'e', "content-encoding"}, {'f', "from"}, {'i', "call-id"}, {'j', "reject-contact"}, {'k', "supported"},
    {'l', "content-length"}, {'m', "contact"}, {'n', "identity-info"}, {'o', "event"}, {'r', "refer-to"},
    {'s', "subject"}, {'t', "to"}, {'u', "allow-events"}, {'v', "via"}, {'x', "session-expires"}, {'y', "identity"},
};

static const char *const METHODS[] = {
    "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "UPDATE", "INFO", "PRACK", "MESSAGE", "NOTIFY",
    "SUBSCRIBE",
};
#define METHOD_COUNT ((int)(sizeof METHODS / sizeof METHODS[0]))

typedef struct {
    PyTypeObject *cseq;
    PyObject *empty;
    PyObject *keys[COUNT];
    PyObject *methods[METHOD_COUNT];
    short table[TABLE]; /* number of a name plus one; 0: free */
    short compact[26];  /* the same by letter */
} State;

typedef struct {
    const char *at, *end;
} Span;

typedef struct {
    Span whole;
    Span name;
    Span value; /* behind the colon, blanks around it left out */
    int key;    /* number of its name, -1: another */
} Line;

typedef struct {
    int status, method;
    Span reason, uri, branch, from_tag, to_tag, call_id;
    unsigned long long cseq;
    int max_forwards; /* -1: absent; so below */
    long content_length;
    char sent_by[MAX_HOST + 8];
    int sent_by_length;
    int count;
    Line lines[MAX_LINES];
} Head;

static int is_blank(char c) { return c == ' ' || c == '\t'; }
static int is_digit(char c) { return c >= '0' && c <= '9'; }
static int is_graph(char c) { return c > ' ' && c < 127; } /* printable ASCII but the blank */
static int is_upper(char c) { return c >= 'A' && c <= 'Z'; }
static char lower(char c) { return is_upper(c) ? (char)(c + ('a' - 'A')) : c; }
static int is_alpha(char c) { c = lower(c); return c >= 'a' && c <= 'z'; }
static int is_token(char c)
{
    return is_alpha(c) || is_digit(c) || (c != '\0' && strchr("-.!%*_+`'~", c) != NULL);
}
static Py_ssize_t length(Span span) { return span.end - span.at; }
static int is(Span span, const char *text)
{
    size_t size = strlen(text);
    return (size_t)length(span) == size && memcmp(span.at, text, size) == 0;
}
static int starts(Span span, const char *text)
{
    size_t size = strlen(text);
    return (size_t)length(span) >= size && memcmp(span.at, text, size) == 0;
}
static const char *find(Span span, char c)
{
    return length(span) > 0 ? memchr(span.at, c, (size_t)length(span)) : NULL;
}

static unsigned hash(const char *name, Py_ssize_t size)
{
    unsigned value = 2166136261u;
    for (Py_ssize_t i = 0; i < size; i++)
        value = (value ^ (unsigned char)name[i]) * 16777619u;
    return value % TABLE;
}

/* The number of a name in lower case, -1 for one that is not in the list. */
static int number_of(const State *state, const char *name, Py_ssize_t size)
{
    if (size == 1 && name[0] >= 'a' && name[0] <= 'z')
        return state->compact[name[0] - 'a'] - 1;
    for (unsigned slot = hash(name, size); state->table[slot] != 0; slot = (slot + 1) % TABLE) {
        const char *known = NAMES[state->table[slot] - 1];
        if (strlen(known) == (size_t)size && memcmp(known, name, (size_t)size) == 0)
            return state->table[slot] - 1;
    }
    return -1;
}

/* Cuts the next line off; 0 when a CR or LF is not one of a CRLF. `rest->at` is NULL after the last one. */
static int next_line(Span *rest, Span *line)
{
    const char *newline = find(*rest, '\n');
    line->at = rest->at;
    if (newline == NULL) {
        line->end = rest->end;
        rest->at = NULL;
    } else {
        if (newline == rest->at || newline[-1] != '\r')
            return 0;
        line->end = newline - 1;
        rest->at = newline + 1;
    }
    return find(*line, '\r') == NULL;
}

static int read_line(const State *state, Line *line)
{
    char name[MAX_NAME];
    Py_ssize_t size = 0;
    const char *at = line->whole.at, *colon = find(line->whole, ':');
    if (colon == NULL || colon - at > MAX_NAME)
        return 0;
    while (at < colon && is_token(*at))
        name[size++] = lower(*at++);
    line->name.at = line->whole.at;
    line->name.end = at;
    while (at < colon && is_blank(*at))
        at++;
    if (size == 0 || at != colon)
        return 0;
    line->key = number_of(state, name, size);
    line->value.at = colon + 1;
    line->value.end = line->whole.end;
    while (line->value.at < line->value.end && is_blank(*line->value.at))
        line->value.at++;
    while (line->value.end > line->value.at && is_blank(line->value.end[-1]))
        line->value.end--;
    return 1;
}

static int read_start(Head *head, Span line)
{
    Span word = line, second, rest;
    const char *blank = find(line, ' ');
    if (blank == NULL)
        return 0;
    word.end = second.at = blank;
    second.at++;
    second.end = line.end;
    blank = find(second, ' ');
    if (blank == NULL)
        return 0;
    second.end = blank;
    rest.at = blank + 1;
    rest.end = line.end;
    if (is(rest, "SIP/2.0")) {
        for (int i = 0; i < METHOD_COUNT; i++) {
            if (is(word, METHODS[i])) {
                head->status = 0;
                head->method = i;
                head->uri = second;
                return length(second) > 0 && second.at[0] != '<' && find(second, '\t') == NULL;
            }
        }
    }
    if (!is(word, "SIP/2.0") || length(second) != 3 || second.at[0] < '1' || second.at[0] > '6' ||
        !is_digit(second.at[1]) || !is_digit(second.at[2]))
        return 0;
    head->status = (second.at[0] - '0') * 100 + (second.at[1] - '0') * 10 + (second.at[2] - '0');
    head->reason = rest;
    return 1;
}

/* host, host:port, [v6] or [v6]:port in lower case, as headers.py writes it */
static int read_sent_by(Head *head, Span text)
{
    const char *at = text.at;
    int size = 0, colons = 0;
    if (at < text.end && *at == '[') {
        for (at++; at < text.end && *at != ']'; at++) {
            char c = lower(*at);
            if (!is_digit(c) && !(c >= 'a' && c <= 'f') && c != ':' && c != '.')
                return 0;
            colons += c == ':';
        }
        if (at == text.end || colons == 0)
            return 0;
        at++;
    } else {
        while (at < text.end && (is_alpha(*at) || is_digit(*at) || *at == '_' || *at == '.' || *at == '-'))
            at++;
    }
    if (at == text.at || at - text.at > MAX_HOST)
        return 0;
    for (const char *c = text.at; c < at; c++)
        head->sent_by[size++] = lower(*c);
    if (at < text.end) {
        int port = 0, digits = 0;
        if (*at != ':')
            return 0;
        head->sent_by[size++] = *at++;
        if (text.end - at > 1 && *at == '0')
            return 0;
        for (; at < text.end; at++) {
            if (!is_digit(*at) || ++digits > 5)
                return 0;
            port = port * 10 + (*at - '0');
            head->sent_by[size++] = *at;
        }
        if (digits == 0 || port > 65535)
            return 0;
    }
    head->sent_by_length = size;
    return 1;
}

static int read_via(Head *head, Span value)
{
    Span part = value;
    const char *semicolon = find(value, ';');
    if (!starts(value, "SIP/2.0/") || semicolon == NULL)
        return 0;
    part.at += 8;
    part.end = semicolon;
    const char *transport = part.at;
    while (part.at < part.end && is_alpha(*part.at))
        part.at++;
    if (part.at == transport || part.at == part.end || *part.at != ' ')
        return 0;
    part.at++;
    if (!read_sent_by(head, part))
        return 0;
    head->branch.at = NULL;
    while (semicolon != NULL) {
        Span rest = {semicolon + 1, value.end};
        semicolon = find(rest, ';');
        Span param = {rest.at, semicolon != NULL ? semicolon : rest.end};
        for (const char *c = param.at; c < param.end; c++)
            if (!is_graph(*c) || *c == ',' || *c == '"')
                return 0;
        if (head->branch.at == NULL && length(param) >= 6 && PyOS_strnicmp(param.at, "branch", 6) == 0 &&
            (length(param) == 6 || param.at[6] == '=')) {
            if (!starts(param, "branch=") || length(param) == 7)
                return 0;
            head->branch.at = param.at + 7;
            head->branch.end = param.end;
        }
    }
    return head->branch.at != NULL;
}

/* From or To: anything, then <URI>, then nothing or ;tag=... */
static int read_address(Span value, Span *tag)
{
    const char *at = value.at, *end = value.end;
    if (at < end && *at == '"') {
        for (at++; at < end && *at != '"'; at++)
            if (*at == '\\' && ++at == end)
                return 0;
        if (at == end)
            return 0;
        for (at++; at < end && is_blank(*at); at++)
            ;
    } else {
        while (at < end && *at != '<' && *at != '"' && *at != ',')
            at++;
    }
    if (end - at < 2 || *at != '<' || !is_graph(at[1]) || at[1] == '>')
        return 0;
    Span rest = {at + 1, end};
    at = find(rest, '>');
    if (at == NULL)
        return 0;
    rest.at = at + 1;
    tag->at = tag->end = end;
    if (length(rest) == 0)
        return 1;
    if (!starts(rest, ";tag="))
        return 0;
    at = tag->at = rest.at + 5;
    while (at < end && *at != ';') {
        if (!is_graph(*at) || *at == '"')
            return 0;
        at++;
    }
    tag->end = at;
    rest.at = at;
    return length(*tag) > 0 && find(rest, '"') == NULL;
}

static int read_number(Span value, int digits, long *number)
{
    *number = 0;
    if (length(value) == 0 || length(value) > digits)
        return 0;
    for (const char *c = value.at; c < value.end; c++) {
        if (!is_digit(*c))
            return 0;
        *number = *number * 10 + (*c - '0');
    }
    return 1;
}

static int read_cseq(Head *head, Span value)
{
    const char *at = value.at;
    int digits = 0;
    head->cseq = 0;
    for (; at < value.end && is_digit(*at); at++) {
        if (++digits > 10)
            return 0;
        head->cseq = head->cseq * 10 + (unsigned long long)(*at - '0');
    }
    Span method = {at, value.end};
    while (method.at < method.end && is_blank(*method.at))
        method.at++;
    if (digits == 0 || method.at == at || head->cseq > 0xffffffffULL)
        return 0;
    if (head->status == 0)
        return is(method, METHODS[head->method]);
    for (head->method = 0; head->method < METHOD_COUNT; head->method++)
        if (is(method, METHODS[head->method]))
            return 1;
    return 0;
}

static int contains(Span span, const char *text)
{
    size_t size = strlen(text);
    for (const char *at; (at = find(span, text[0])) != NULL; span.at = at + 1)
        if ((size_t)(span.end - at) >= size && memcmp(at, text, size) == 0)
            return 1;
    return 0;
}

/* Fills `head`; 0 when anything is odd. */
static int read_head(const State *state, Head *head, Span text)
{
    Span rest = text, start;
    int seen[SINGLE] = {0}; /* number of the line plus one */
    long number;
    if (!next_line(&rest, &start) || !read_start(head, start))
        return 0;
    head->count = 0;
    while (rest.at != NULL) {
        if (head->count == MAX_LINES)
            return 0;
        Line *line = &head->lines[head->count];
        if (!next_line(&rest, &line->whole) || !read_line(state, line))
            return 0;
        head->count++;
        if (line->key == VIA && find(line->value, ',') != NULL)
            return 0;
        if (line->key >= 0 && line->key < SINGLE) {
            if (seen[line->key] == 0)
                seen[line->key] = head->count;
            else if (line->key != VIA)
                return 0;
        }
    }
    for (int key = VIA; key <= CSEQ; key++)
        if (seen[key] == 0)
            return 0;
    head->call_id = head->lines[seen[CALL_ID] - 1].value;
    if (!read_via(head, head->lines[seen[VIA] - 1].value) ||
        !read_address(head->lines[seen[FROM] - 1].value, &head->from_tag) ||
        !read_address(head->lines[seen[TO] - 1].value, &head->to_tag) ||
        !read_cseq(head, head->lines[seen[CSEQ] - 1].value) || length(head->call_id) == 0)
        return 0;
    head->max_forwards = -1;
    if (seen[MAX_FORWARDS] != 0) {
        Span value = head->lines[seen[MAX_FORWARDS] - 1].value;
        if (!read_number(value, 3, &number) || number > 255 || (length(value) > 1 && value.at[0] == '0'))
            return 0;
        head->max_forwards = (int)number;
    }
    head->content_length = -1;
    if (seen[CONTENT_LENGTH] != 0) {
        if (!read_number(head->lines[seen[CONTENT_LENGTH] - 1].value, 9, &number))
            return 0;
        head->content_length = number;
    }
    if (head->status == 0)
        return length(head->branch) > 7; /* else nothing but the magic cookie, or from before RFC 3261 */
    return !contains(text, "255.255.255.255");
}

static PyObject *as_text(Span span) { return PyUnicode_DecodeUTF8(span.at, length(span), "surrogateescape"); }

static PyObject *key_of(const State *state, const Line *line)
{
    char name[MAX_NAME];
    if (line->key >= 0)
        return Py_NewRef(state->keys[line->key]);
    Py_ssize_t size = length(line->name);
    for (Py_ssize_t i = 0; i < size; i++)
        name[i] = lower(line->name.at[i]);
    return PyUnicode_FromStringAndSize(name, size);
}

static PyObject *as_number(long number)
{
    if (number < 0)
        Py_RETURN_NONE;
    return PyLong_FromLong(number);
}

/* A CSeq of headers.py: a named tuple is a tuple. */
static PyObject *cseq_of(const State *state, const Head *head)
{
    PyObject *number = PyLong_FromUnsignedLongLong(head->cseq);
    if (number == NULL)
        return NULL;
    PyObject *cseq = state->cseq->tp_alloc(state->cseq, 2);
    if (cseq == NULL) {
        Py_DECREF(number);
        return NULL;
    }
    PyTuple_SET_ITEM(cseq, 0, number);
    PyTuple_SET_ITEM(cseq, 1, Py_NewRef(state->methods[head->method]));
    return cseq;
}

static PyObject *build(const State *state, const Head *head)
{
    PyObject *found = PyTuple_New(13), *keys = PyList_New(head->count), *lines = PyList_New(head->count);
    if (found == NULL || keys == NULL || lines == NULL)
        goto failed;
    for (int i = 0; i < head->count; i++) {
        PyObject *key = key_of(state, &head->lines[i]), *line = as_text(head->lines[i].whole);
        if (key == NULL || line == NULL) {
            Py_XDECREF(key);
            Py_XDECREF(line);
            goto failed;
        }
        PyList_SET_ITEM(keys, i, key);
        PyList_SET_ITEM(lines, i, line);
    }
    PyTuple_SET_ITEM(found, 0, PyLong_FromLong(head->status));
    PyTuple_SET_ITEM(found, 1, head->status != 0 ? as_text(head->reason) : Py_NewRef(state->methods[head->method]));
    PyTuple_SET_ITEM(found, 2, head->status != 0 ? Py_NewRef(state->empty) : as_text(head->uri));
    PyTuple_SET_ITEM(found, 3, keys);
    PyTuple_SET_ITEM(found, 4, lines);
    keys = lines = NULL;
    PyTuple_SET_ITEM(found, 5, as_text(head->branch));
    PyTuple_SET_ITEM(found, 6, PyUnicode_FromStringAndSize(head->sent_by, head->sent_by_length));
    PyTuple_SET_ITEM(found, 7, as_text(head->from_tag));
    PyTuple_SET_ITEM(found, 8, as_text(head->to_tag));
    PyTuple_SET_ITEM(found, 9, as_text(head->call_id));
    PyTuple_SET_ITEM(found, 10, cseq_of(state, head));
    PyTuple_SET_ITEM(found, 11, as_number(head->max_forwards));
    PyTuple_SET_ITEM(found, 12, as_number(head->content_length));
    for (int i = 0; i < 13; i++)
        if (PyTuple_GET_ITEM(found, i) == NULL)
            goto failed;
    return found;
failed:
    Py_XDECREF(found);
    Py_XDECREF(keys);
    Py_XDECREF(lines);
    return NULL;
}

static PyObject *scan_head(PyObject *module, PyObject *octets)
{
    const State *state = PyModule_GetState(module);
    Head head;
    if (!PyBytes_Check(octets))
        return PyErr_Format(PyExc_TypeError, "octets expected, got %s", Py_TYPE(octets)->tp_name);
    if (PyBytes_GET_SIZE(octets) > MAX_LINE)
        Py_RETURN_NONE;
    Span text = {PyBytes_AS_STRING(octets), PyBytes_AS_STRING(octets) + PyBytes_GET_SIZE(octets)};
    if (!read_head(state, &head, text))
        Py_RETURN_NONE;
    return build(state, &head);
}

static PyMethodDef methods[] = {
    {"scan_head", scan_head, METH_O, "What siprec.sip.scan.Head names, of a head that is in order; else None."},
    {NULL, NULL, 0, NULL},
};

static int set_up(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *headers = PyImport_ImportModule("siprec.sip.headers");
    if (headers == NULL)
        return -1;
    PyObject *cseq = PyObject_GetAttrString(headers, "CSeq");
    Py_DECREF(headers);
    if (cseq == NULL)
        return -1;
    state->cseq = (PyTypeObject *)cseq;
    if (!PyType_Check(cseq) || !PyType_IsSubtype(state->cseq, &PyTuple_Type) ||
        state->cseq->tp_basicsize != PyTuple_Type.tp_basicsize) {
        PyErr_SetString(PyExc_ImportError, "CSeq is no plain tuple");
        return -1;
    }
    if ((state->empty = PyUnicode_FromStringAndSize("", 0)) == NULL)
        return -1;
    for (int i = 0; i < COUNT; i++) {
        unsigned slot = hash(NAMES[i], (Py_ssize_t)strlen(NAMES[i]));
        while (state->table[slot] != 0)
            slot = (slot + 1) % TABLE;
        state->table[slot] = (short)(i + 1);
        if ((state->keys[i] = PyUnicode_InternFromString(NAMES[i])) == NULL)
            return -1;
    }
    for (size_t i = 0; i < sizeof COMPACT / sizeof COMPACT[0]; i++) {
        int number = number_of(state, COMPACT[i].name, (Py_ssize_t)strlen(COMPACT[i].name));
        state->compact[COMPACT[i].letter - 'a'] = (short)(number + 1);
    }
    for (int i = 0; i < METHOD_COUNT; i++)
        if ((state->methods[i] = PyUnicode_InternFromString(METHODS[i])) == NULL)
            return -1;
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    if (state != NULL)
        Py_VISIT((PyObject *)state->cseq);
    return 0;
}

static int clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (state == NULL)
        return 0;
    Py_CLEAR(state->cseq);
    Py_CLEAR(state->empty);
    for (int i = 0; i < COUNT; i++)
        Py_CLEAR(state->keys[i]);
    for (int i = 0; i < METHOD_COUNT; i++)
        Py_CLEAR(state->methods[i]);
    return 0;
}

static void release(void *module) { (void)clear(module); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, set_up}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "siprec.sip._scan",
    .m_doc = "The pass over the head of a SIP message in C.",
    .m_size = sizeof(State),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__scan(void)
{
    return PyModuleDef_Init(&definition);
}
