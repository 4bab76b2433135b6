#!/bin/busybox sh
# The guest's init. Kernel messages and the errors of commands go to ttyS0. Over ttyS1 it runs the
# commands of guest/agent.py, one after the other. A command is a line "NUMBER BASE64"; each line of
# its output comes back as "NUMBER:LINE", and its exit status at the end as "NUMBER=STATUS".

# This shell prefers its own applets to programs in PATH, so commands name packed programs by path.
export PATH=/applets
/bin/busybox mkdir -p /applets
/bin/busybox --install -s /applets
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

# Kept open: what the host sends while nobody has the port open is lost.
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1

echo "ready=$(cut -d' ' -f1 /proc/uptime)" >&3
while read -r number text <&3; do
  echo "$text" | base64 -d >/tmp/command
  {
    sh /tmp/command </dev/null 2>/dev/ttyS0 3>&-
    echo $? >/tmp/status
  } | while IFS= read -r line || [ -n "$line" ]; do
    echo "$number:$line"
  done >&3
  echo "$number=$(cat /tmp/status)" >&3
done
