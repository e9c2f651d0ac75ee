"""Lives of networks by libvirt's binding for Python."""

import time

import libvirt

import loop
from loop import check, refused

loop.start()
conn = libvirt.open("network:///system")
other = libvirt.open("network:///system")
looker = libvirt.openReadOnly("network:///system")
everything = loop.Events(conn)
xml = """<network><name>lan</name><forward mode='nat'/><bridge name='virbr50'/>
<ip address='192.168.50.1' netmask='255.255.255.0'><dhcp><range start='192.168.50.2' end='192.168.50.254'/></dhcp></ip></network>"""
net = conn.networkDefineXMLFlags(xml, libvirt.VIR_NETWORK_DEFINE_VALIDATE)
own = loop.Events(other, other.networkLookupByName("lan"))
net.create()
everything.expect(("lan", "defined"), ("lan", "started"))
own.expect(("lan", "started"))

# Lists.
passing = conn.networkCreateXMLFlags(xml.replace("50", "51").replace("'lan'", "").replace(">lan<", ">passing<"), libvirt.VIR_NETWORK_CREATE_VALIDATE)
everything.expect(("passing", "started"))
own.none_left()
for flags, want in ((0, ["lan", "passing"]), (libvirt.VIR_CONNECT_LIST_NETWORKS_TRANSIENT, ["passing"]),
                    (libvirt.VIR_CONNECT_LIST_NETWORKS_PERSISTENT, ["lan"]), (libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE, []),
                    (libvirt.VIR_CONNECT_LIST_NETWORKS_NO_AUTOSTART, ["lan", "passing"])):
    check("networks", sorted(n.name() for n in conn.listAllNetworks(flags)), want)

# Marks.
net.setAutostart(1)
check("autostart", (net.autostart(), other.networkLookupByUUID(net.UUID()).autostart()), (1, 1))
check("marked", [n.name() for n in conn.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_AUTOSTART)], ["lan"])
refused(lambda: passing.setAutostart(1), libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_NETWORK,
        "Requested operation is not valid: cannot set autostart for transient network")
passing.destroy()
everything.expect(("passing", "stopped"))

# Updates.
both = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
host = "<host mac='52:54:00:00:00:01' name='one' ip='192.168.50.77'/>"
add = lambda: net.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, host, both)
add()
refused(add, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_NETWORK, "Requested operation is not valid: there is an existing dhcp host "
        "entry in network 'lan' that matches \"<host mac='52:54:00:00:00:01' name='one' ip='192.168.50.77'/>\"")
for flags in (0, libvirt.VIR_NETWORK_XML_INACTIVE):
    check("update", host in net.XMLDesc(flags), True)

# Who may only look.
refused(looker.networkLookupByName("lan").destroy, libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_FROM_NETWORK,
        "operation forbidden: read only access prevents virNetworkDestroy")
check("look", looker.networkLookupByName("lan").isActive(), 1)

# Ports.
port = net.portCreateXML("""<networkport><uuid>0b3c9fae-7a0b-4c3e-8f6d-0d9c5a0e5b11</uuid><owner><name>g</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>
<mac address='52:54:00:50:00:09'/><bandwidth><inbound average='100'/></bandwidth></networkport>""", 0)
check("ports", [p.UUIDString() for p in net.listAllPorts()], [port.UUIDString()])
port.setParameters({libvirt.VIR_NETWORK_PORT_BANDWIDTH_IN_AVERAGE: 1000})
check("limit", port.parameters()[libvirt.VIR_NETWORK_PORT_BANDWIDTH_IN_AVERAGE], 1000)
check("port", net.portLookupByUUID(port.UUID()).XMLDesc(0), port.XMLDesc(0))
port.delete()
check("ports", net.listAllPorts(), [])

# A lease.
print("guest on virbr50", flush=True)
deadline = time.time() + loop.LIMIT
while not net.DHCPLeases() and time.time() < deadline:
    time.sleep(0.05)
check("lease", [(l["mac"], l["ipaddr"]) for l in net.DHCPLeases("52:54:00:00:00:01")], [("52:54:00:00:00:01", "192.168.50.77")])

# The end.
net.destroy()
net.create()
net.destroy()
net.undefine()
last = [("lan", e) for e in ("stopped", "started", "stopped", "undefined")]
everything.expect(*last)
own.expect(*last)
everything.deregister()
conn.networkCreateXML(xml).destroy()
own.none_left()
own.deregister()
print("done", flush=True)
