# Opens a device through its VFIO group, as a virtual machine monitor does, and keeps it open until it is killed.
# Arguments: group, address. With "status" as address it only tells whether the kernel finds the group viable; with a third one it
# waits for whoever has the group to let go of it.
my ($group, $address, $waits) = @ARGV;
open(my $container, "+<", "/dev/vfio/vfio") or die "container: $!\n";
my $file;
until (open($file, "+<", "/dev/vfio/$group")) {
  die "group: $!\n" unless $waits && $!{EBUSY};
  select(undef, undef, undef, 0.01);
}
my $status = pack("II", 8, 0);
ioctl($file, 0x3b67, $status) or die "status: $!\n";
my (undef, $flags) = unpack("II", $status);
$| = 1;
print "viable ", $flags & 1, "\n";
exit 0 if $address eq "status";
my $number = pack("i", fileno($container));
ioctl($file, 0x3b68, $number) or die "set container: $!\n";
ioctl($container, 0x3b66, 1) or die "set iommu: $!\n";
my $name = "$address\0";
my $device = ioctl($file, 0x3b6a, $name) or die "device: $!\n";
print "held\n";
sleep 3600;
