# The smallest guest that proves something: a boot sector that looks for a card on its own PCI bus, and only with the card says what
# it saw and that it is ready, with the token of its seed. It switches itself off when its power button is pressed. So a machine
# within an emulated machine is up in seconds, where a kernel takes minutes.
#
# Assembled into boot-sector.ts with:
#   as boot-sector.S -o b.o && ld -Ttext 0x7c00 --oformat binary -o b.bin b.o && base64 -w0 b.bin

.set CARD, 0x10D38086
.set BUSES, 16
.set SEED_DRIVE, 0x81
.set SECTORS_AT_ONCE, 64
.set READS, 64
.set SERIAL, 0x3F8
# Power management of the q35 board, as its firmware places it.
.set PM_STATUS, 0x600
.set PM_ENABLE, 0x602
.set PM_CONTROL, 0x604

.code16
.globl _start
_start:
  xor %ax, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $0x7C00, %sp
  cld
  sti

  # Vendor and device of each function, by the ports of the first PCI mechanism.
  mov $0x80000000, %ebx
1:
  mov %ebx, %eax
  mov $0xCF8, %dx
  outl %eax, %dx
  mov $0xCFC, %dx
  inl %dx, %eax
  cmp $CARD, %eax
  je 2f
  add $0x100, %ebx
  cmp $(0x80000000 + BUSES * 0x10000), %ebx
  jb 1b
  mov $no_card, %si
  jmp stop

2:
  mov $SEED_DRIVE, %dl
  mov $packet, %si
  mov $0x42, %ah
  int $0x13
  mov $no_seed, %si
  jc stop
  mov $0x1000, %ax
  mov %ax, %es
  xor %di, %di
3:
  push %di
  mov $name, %si
  mov $NAME_BYTES, %cx
  repe cmpsb
  je found
  pop %di
  inc %di
  cmp $(SECTORS_AT_ONCE * 512), %di
  jb 3b
  addw $SECTORS_AT_ONCE, packet + 8
  decb reads
  jnz 2b
  mov $no_token, %si
  jmp stop

found:
  push %es
  pop %fs
  push %di
  mov $sees, %si
  call print_token
  mov $card, %si
  call print
  pop %di
  mov $ready, %si
  call print_token

  # A pressed power button shows itself only where it is asked for.
  mov $PM_ENABLE, %dx
  inw %dx, %ax
  or $1, %ah
  outw %ax, %dx
5:
  hlt
  mov $PM_STATUS, %dx
  inw %dx, %ax
  test $1, %ah
  jz 5b
  mov $PM_CONTROL, %dx
  mov $0x2000, %ax
  outw %ax, %dx
6:
  hlt
  jmp 6b

stop:
  call print
  jmp 6b

# The text at %si, up to its zero, and the token at %fs:%di, up to the end of its line.
print_token:
  call print
4:
  mov %fs:(%di), %al
  inc %di
  cmp $10, %al
  je 7f
  call put
  jmp 4b

# The text at %si, up to its zero.
print:
  lodsb
  test %al, %al
  jz 7f
  call put
  jmp print
7:
  ret

put:
  mov $SERIAL, %dx
  outb %al, %dx
  ret

packet:
  .byte 16, 0
  .word SECTORS_AT_ONCE
  .word 0, 0x1000
  .quad 0
reads:
  .byte READS
name:
  .ascii "READY_TOKEN="
.set NAME_BYTES, . - name
sees:
  .asciz "\nHOSTLER-SEES "
card:
  .asciz " 8086:10d3 .\n"
ready:
  .asciz "\nHOSTLER-READY "
no_card:
  .asciz "no card\n"
no_seed:
  .asciz "no seed\n"
no_token:
  .asciz "no token\n"

.org 510
.word 0xAA55
