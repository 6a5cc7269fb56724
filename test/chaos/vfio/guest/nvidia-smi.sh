#!/bin/sh
# Answers that the stand-in for nvidia-smi gave on the host, each in a file named after what was asked. A card that VFIO has is not
# shown, as NVIDIA's own tool does not show it.
answers=/opt/nvidia-smi
read -r address <$answers/address
if [ "$(readlink "/sys/bus/pci/devices/$address/driver")" = ../../../../bus/pci/drivers/e1000e ]; then
  shown=shown
else
  shown=hidden
fi
name=$(printf '%s' "$*" | md5sum)
name=${name%% *}
if [ ! -f "$answers/$shown/$name" ]; then
  echo "nobody recorded an answer to: $*"
  exit 99
fi
cat "$answers/$shown/$name"
read -r code <"$answers/$shown/$name.code"
exit "$code"
