"""Everything that virt-manager's page of virtual networks and its wizard for a
new one ask of a connection, in their order, with its polling and its events."""

import re
import time

import libvirt

import loop
from loop import check, refused

loop.start()


class Net:
    """What virt-manager remembers of a network between looks."""

    def __init__(self, backend):
        self.backend = backend
        self.recache()

    def recache(self):
        self.active = self.backend.isActive() == 1
        self.xml = self.backend.XMLDesc(0)

    def select(self):
        """The page fills in its fields."""
        self.autostart = self.backend.autostart()
        self.xml = self.backend.XMLDesc(0)
        return self


def ask_password(credentials, data):
    raise SystemExit("asked for %r" % credentials)


# The connection is opened.
credentials = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_ECHOPROMPT, libvirt.VIR_CRED_REALM,
               libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT, libvirt.VIR_CRED_EXTERNAL]
conn = libvirt.openAuth("network:///system", [credentials, ask_password, None], 0)
check("address", conn.getURI(), "network:///system")
check("type", conn.getType(), "network")
check("version of libvirt there", conn.getLibVersion() >= 9000000, True)
for call, name in ((conn.getVersion, "virConnectGetVersion"), (conn.getCapabilities, "virConnectGetCapabilities"),
                   (conn.getHostname, "virConnectGetHostname"), (conn.getInfo, "virNodeGetInfo"),
                   (lambda: conn.listAllDomains(0), "virConnectListAllDomains"),
                   (lambda: conn.listAllStoragePools(0), "virConnectListAllStoragePools"),
                   (lambda: conn.listAllDevices(0), "virConnectListAllNodeDevices"),
                   (lambda: conn.listAllInterfaces(0), "virConnectListAllInterfaces")):
    try:
        call()
        raise SystemExit(name + " is answered")
    except libvirt.libvirtError as e:
        check(name, (e.get_error_code(), e.get_error_message()),
              (libvirt.VIR_ERR_NO_SUPPORT, "this function is not supported by the connection driver: " + name))

# Does it support networks?
check("probe", conn.listNetworks(), [])
check("probe", (conn.numOfNetworks(), conn.numOfDefinedNetworks(), conn.listDefinedNetworks()), (0, 1, ["office"]))
events = loop.Events(conn)
conn.setKeepAlive(20, 1)

# The first look.
nets = {}


def poll():
    found = {n.name(): n for n in conn.listAllNetworks(0)}
    for name in list(nets):
        if name not in found:
            del nets[name]
    for name, backend in found.items():
        if name not in nets:
            nets[name] = Net(backend)


poll()
check("networks", sorted(nets), ["office"])
check("active", nets["office"].active, False)
check("autostart", nets["office"].select().autostart, 0)

# The wizard proposes a name that is free, and checks it again when it is done.
refused(lambda: conn.networkLookupByName("network"), libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_FROM_NETWORK,
        "Network not found: no network with matching name 'network'")
refused(lambda: conn.networkLookupByUUIDString("11111111-1111-1111-1111-111111111111"), libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_FROM_NETWORK, "Network not found: no network with matching uuid '11111111-1111-1111-1111-111111111111'")
check("taken name", conn.networkLookupByName("office").name(), "office")
wizard = """<network>
  <name>network</name>
  <forward mode="nat"/>
  <domain name="network"/>
  <ip address="192.168.100.1" netmask="255.255.255.0">
    <dhcp>
      <range start="192.168.100.128" end="192.168.100.254"/>
    </dhcp>
  </ip>
  <ip family="ipv6" address="fd00:100::1" prefix="64">
    <dhcp>
      <range start="fd00:100::100" end="fd00:100::1ff"/>
    </dhcp>
  </ip>
</network>
"""
made = conn.networkDefineXML(wizard)
made.create()
made.setAutostart(True)
events.expect(("network", "defined"), ("network", "started"))
poll()  # it did not know the network of the event
check("networks", sorted(nets), ["network", "office"])
net = nets["network"]
check("active", net.active, True)
check("autostart", net.select().autostart, 1)
bridge = re.search(r"<bridge name='([^']*)'", net.xml).group(1)
check("bridge", net.backend.bridgeName(), bridge)
for part in ("<forward mode='nat'>", "<port start='1024' end='65535'/>", "<domain name='network'/>", "<mac address='52:54:00:",
             "<range start='192.168.100.128' end='192.168.100.254'/>", "<ip family='ipv6' address='fd00:100::1' prefix='64'>"):
    check(part, part in net.xml, True)
check("a network that stays", net.backend.isPersistent(), 1)

# A mistake in the wizard: what was defined is taken back.
clash = conn.networkDefineXML(wizard.replace("<name>network<", "<name>clash<").replace("fd00:100", "fd00:200"))
refused(clash.create, libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NONE,
        "internal error: Network is already in use by interface " + bridge)
clash.undefine()
events.expect(("clash", "defined"), ("clash", "undefined"))
refused(lambda: conn.networkDefineXML("<network><name>a/b</name></network>"), libvirt.VIR_ERR_XML_DETAIL, libvirt.VIR_FROM_XML,
        "invalid char in name: /")

# A guest comes, and its details show its address.
print("guest on " + bridge, flush=True)
deadline = time.time() + loop.LIMIT
leases = []
while not leases and time.time() < deadline:
    time.sleep(0.05)
    leases = net.backend.DHCPLeases()
check("leases", [(lease["iface"], lease["mac"], lease["prefix"], lease["type"]) for lease in leases],
      [(bridge, "52:54:00:00:00:01", 24, libvirt.VIR_IP_ADDR_TYPE_IPV4)])
check("address", leases[0]["ipaddr"].startswith("192.168.100."), True)
check("still to come", leases[0]["expirytime"] > time.time(), True)
check("lease of that card", net.backend.DHCPLeases("52:54:00:00:00:01"), leases)
check("leases of another", net.backend.DHCPLeases("52:54:00:00:00:02"), [])

# Stop, and a new name and other contents, which have their own order.
net.backend.destroy()
events.expect(("network", "stopped"))
net.recache()
check("active", net.active, False)
autostart, xml = net.backend.autostart(), net.backend.XMLDesc(0)
net.backend.undefine()
renamed = conn.networkDefineXML(xml.replace("<name>network<", "<name>lab<"))
renamed.setAutostart(autostart)
events.expect(("network", "undefined"), ("lab", "defined"))
poll()
check("networks", sorted(nets), ["lab", "office"])
net = nets["lab"]
check("same network", net.backend.UUIDString(), made.UUIDString())
check("autostart", net.select().autostart, 1)
edited = net.xml.replace("end='192.168.100.254'", "end='192.168.100.200'")
conn.networkDefineXML(edited)
events.expect(("lab", "defined"))
net.recache()
check("edited", net.xml, edited)
net.backend.setAutostart(False)
check("autostart", net.select().autostart, 0)

# Start, a start too many, and an edit while it runs, which is for the next start.
net.backend.create()
events.expect(("lab", "started"))
refused(net.backend.create, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_NETWORK,
        "Requested operation is not valid: network is already active")
running = net.backend.XMLDesc(0)
conn.networkDefineXML(edited.replace("<domain name='network'/>", "<domain name='lab'/>"))
events.expect(("lab", "defined"))
check("running", net.backend.XMLDesc(0), running)
check("next", "<domain name='lab'/>" in net.backend.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE), True)

# The regular looks go on meanwhile.
for _ in range(20):
    poll()
    for n in nets.values():
        n.recache()
check("alive", (conn.isAlive(), conn.isSecure(), conn.isEncrypted()), (1, 1, 0))

# Delete, and close.
net.backend.destroy()
net.backend.undefine()
events.expect(("lab", "stopped"), ("lab", "undefined"))
refused(lambda: net.backend.XMLDesc(0), libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_FROM_NETWORK,
        "Network not found: no network with matching uuid '%s' (lab)" % net.backend.UUIDString())
poll()
check("networks", sorted(nets), ["office"])
events.none_left()
events.deregister()
print("done", flush=True)
