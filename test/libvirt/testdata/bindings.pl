# Lives of networks by libvirt's binding for Perl.
use strict;
use warnings;
use Sys::Virt;
use Sys::Virt::Event;

$| = 1;
my $limit = 60;    # seconds that anything may take on a busy machine

sub check {
    my ($what, $got, $want) = @_;
    $got = "(undefined)" unless defined $got;
    die "$what: $got, want $want\n" if $got ne $want;
}

sub refused {
    my ($call, $code, $message) = @_;
    eval { $call->(); 1 } and die "done in spite of: $message\n";
    my $e = $@;
    die "$e instead of: $message\n" unless ref $e;
    check("message", $e->message, $message);
    check("code", $e->code, $code);
    check("domain", $e->domain, Sys::Virt::Error::FROM_NETWORK);
}

Sys::Virt::Event::register_default();
my $conn = Sys::Virt->new(uri => "network:///system");
check("type", $conn->get_type, "network");
check("address", $conn->get_uri, "network:///system");

my @heard;
my @names = ("defined", "undefined", "started", "stopped");
my $callback = $conn->network_event_register_any(undef, Sys::Virt::Network::EVENT_ID_LIFECYCLE, sub {
    my ($c, $net, $event, $detail) = @_;
    push @heard, $net->get_name . " $names[$event] $detail";
});
my $tick = Sys::Virt::Event::add_timeout(50, sub { });    # so that waiting has an end

# What has to happen until so many events were heard.
sub expect {
    my @wanted = @_;
    my $end = time + $limit;
    Sys::Virt::Event::run_default() while @heard < @wanted && time < $end;
    check("events", join(", ", @heard), join(", ", map { "$_ 0" } @wanted));
    @heard = ();
}

my $xml = "<network><name>lan</name><forward mode='nat'/><bridge name='virbr60'/><ip address='192.168.60.1' netmask='255.255.255.0'>"
    . "<dhcp><range start='192.168.60.2' end='192.168.60.254'/></dhcp></ip></network>";
my $net = $conn->define_network($xml);
$net->create;
expect("lan defined", "lan started");
check("active", $net->is_active, 1);
check("persistent", $net->is_persistent, 1);
check("bridge", $net->get_bridge_name, "virbr60");
check("same network", $conn->get_network_by_uuid($net->get_uuid)->get_name, "lan");
check("number", $conn->num_of_networks . $conn->num_of_defined_networks, "10");
check("names", join(",", $conn->list_network_names(10)), "lan");
check("networks", join(",", map { $_->get_name } $conn->list_all_networks(Sys::Virt::Network::LIST_ACTIVE)), "lan");

refused(sub { $net->create }, Sys::Virt::Error::ERR_OPERATION_INVALID, "Requested operation is not valid: network is already active");
refused(sub { $conn->get_network_by_name("nope") }, Sys::Virt::Error::ERR_NO_NETWORK, "Network not found: no network with matching name 'nope'");

$net->set_autostart(1);
check("autostart", $net->get_autostart, 1);
$net->set_autostart(0);
check("autostart", $net->get_autostart, 0);

my $host = "<host mac='52:54:00:00:00:01' name='one' ip='192.168.60.77'/>";
my $both = Sys::Virt::Network::UPDATE_AFFECT_LIVE | Sys::Virt::Network::UPDATE_AFFECT_CONFIG;
$net->update(Sys::Virt::Network::UPDATE_COMMAND_ADD_FIRST, Sys::Virt::Network::SECTION_IP_DHCP_HOST, -1, $host, $both);
for my $flags (0, Sys::Virt::Network::XML_INACTIVE) {
    check("update", index($net->get_xml_description($flags), $host) > 0 ? "there" : "missing", "there");
}

my $port = $net->create_port("<networkport><uuid>0b3c9fae-7a0b-4c3e-8f6d-0d9c5a0e5b11</uuid><owner><name>g</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>"
        . "<mac address='52:54:00:60:00:09'/><bandwidth><inbound average='100'/></bandwidth></networkport>");
check("ports", join(",", map { $_->get_uuid_string } $net->list_all_ports), $port->get_uuid_string);
$port->set_parameters({ Sys::Virt::NetworkPort::BANDWIDTH_IN_AVERAGE() => 500 });
check("limit", $port->get_parameters->{ Sys::Virt::NetworkPort::BANDWIDTH_IN_AVERAGE() }, 500);
$port->delete;

print "guest on virbr60\n";
my $end = time + $limit;
my @leases;
select(undef, undef, undef, 0.05) until (@leases = $net->get_dhcp_leases) || time > $end;
check("leases", join(",", map { "$_->{iface} $_->{mac} $_->{ipaddr}/$_->{prefix}" } @leases), "virbr60 52:54:00:00:00:01 192.168.60.77/24");
check("still to come", $leases[0]->{expirytime} > time ? "yes" : "no", "yes");
check("leases of another", scalar(my @none = $net->get_dhcp_leases("52:54:00:00:00:02")), 0);

$net->destroy;
$net->create;
$net->destroy;
$net->undefine;
expect("lan stopped", "lan started", "lan stopped", "lan undefined");
$conn->create_network($xml)->destroy;
expect("lan started", "lan stopped");
$conn->network_event_deregister_any($callback);
print "done\n";
