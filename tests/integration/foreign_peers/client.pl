# Submits one job through Perl's Gearman::Client; prints what came of it as one line of JSON.
# Usage: client.pl HOST:PORT TASK DATA TIMEOUT_S [exceptions] [background]

use strict;
use warnings;
use Gearman::Client;
use Gearman::Task;
use JSON::PP;
use Storable;
use Time::HiRes qw(sleep time);

my ($address, $name, $data, $timeout_s, @options) = @ARGV;
my %wants = map { $_ => 1 } @options;

my $client = Gearman::Client->new(job_servers => [$address], exceptions => $wants{exceptions});
my %seen = (data => [], warnings => [], status => [], failed => 0, result => undef, exception => undef);

sub finish {
    print JSON::PP->new->canonical->encode({ %seen, @_ }), "\n";
    exit 0;
}

if ($wants{background}) {
    my $handle = $client->dispatch_background($name, \$data, { uniq => "perl-$$" });
    my $deadline = time + $timeout_s;
    while (time < $deadline) {
        my $status = $client->get_status($handle);
        push @{ $seen{status} }, $status->progress if $status->known && $status->progress;
        finish(done => JSON::PP::true) unless $status->known;
        sleep 0.02;
    }
    finish(done => JSON::PP::false);
}

my $task = Gearman::Task->new($name, \$data, {
    on_data      => sub { push @{ $seen{data} }, ${ $_[0] } },
    on_warning   => sub { push @{ $seen{warnings} }, ${ $_[0] } },
    on_status    => sub { push @{ $seen{status} }, [map { $_ + 0 } @_] },
    on_complete  => sub { $seen{result} = ${ $_[0] } },
    on_exception => sub { my ($thawed) = @_; $seen{exception} = ref $thawed ? ${$thawed} : $thawed },
    on_fail      => sub { $seen{failed} = 1; $seen{reason} = $_[0] },
});
my $tasks = $client->new_task_set;
$tasks->add_task($task);
eval { $tasks->wait(timeout => $timeout_s); 1 } or $seen{died} = "$@";
finish();
