"""What the scripts share: libvirt's event loop on a thread of its own, as
virt-manager has it, and words for what an answer should be."""

import queue
import sys
import threading

import libvirt

LIMIT = 60  # seconds that anything may take on a busy machine

# Errors are looked at here, and not told on the terminal.
libvirt.registerErrorHandler(lambda ctx, err: None, None)


def start():
    libvirt.virEventRegisterDefaultImpl()

    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


def check(what, got, want):
    if got != want:
        sys.exit("%s: %r, want %r" % (what, got, want))


def refused(call, code, domain, message):
    """The call fails with libvirt's error, and in its words."""
    try:
        got = call()
    except libvirt.libvirtError as e:
        check("error", (e.get_error_code(), e.get_error_domain(), e.get_error_message()), (code, domain, message))
        check("level", e.get_error_level(), libvirt.VIR_ERR_ERROR)
        return
    sys.exit("%r instead of: %s" % (got, message))


class Events:
    """The events of networks in the order of their arrival."""

    def __init__(self, conn, network=None):
        self.queue = queue.Queue()
        self.conn = conn
        self.id = conn.networkEventRegisterAny(network, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, self.heard, "opaque")

    def heard(self, conn, network, event, detail, opaque):
        check("opaque", opaque, "opaque")
        self.queue.put((network.name(), ["defined", "undefined", "started", "stopped"][event], detail))

    def expect(self, *wanted):
        for name, event in wanted:
            try:
                check("event", self.queue.get(timeout=LIMIT), (name, event, 0))
            except queue.Empty:
                sys.exit("no event %s %s" % (name, event))

    def none_left(self):
        check("events too many", self.queue.qsize(), 0)

    def deregister(self):
        self.conn.networkEventDeregisterAny(self.id)
